/**
 * Calls `wake` when the network is back, and when the player comes back to the page, until the signal is aborted. Only
 * browsers have these events. Elsewhere it is never called.
 */
export function wakeWithPage(wake: () => void, signal: AbortSignal): void {
  globalThis.addEventListener?.("online", wake, { signal });
  const onChange = () => {
    if (document.visibilityState === "visible") wake();
  };
  globalThis.document?.addEventListener?.("visibilitychange", onChange, { signal });
}
