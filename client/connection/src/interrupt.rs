/// Completes at the next Ctrl-C, so that a command can race it against its work. If Ctrl-C cannot be listened for, the
/// future never completes and Ctrl-C kills the process as usual.
pub async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
