//! Ctrl-C, as a future that a command races against its work.

/// Completes at the next Ctrl-C. Where none can be listened for it never does, and Ctrl-C kills as usual.
pub(crate) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
