//! Lets the other worker threads take over from a thread that a call of a plugin keeps busy.

use std::future::ready;
use tokio::runtime::Handle;

/// Makes another worker thread of the runtime run the tasks of this thread, and wait for the sockets. Does nothing on a
/// thread that is no worker, such as an offload thread.
///
/// A worker that finds a single task to do wakes no other worker. If it was the one that waited for the sockets, and the
/// task is a call of a plugin that takes long, nobody waits for the sockets until the call ends: no packet of any session
/// is served, although other threads are free. A worker with several tasks wakes another one, which takes the tasks over
/// and then waits for the sockets. The last task of a worker cannot be taken over, so two tasks are needed, and a task
/// that is stuck behind this call becomes free as well.
pub(super) fn hand_over() {
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn(ready(())));
        drop(runtime.spawn(ready(())));
    }
}
