/** The listeners of an object, by the name of the event. */
export class Listeners<Events> {
  #listeners = new Map<keyof Events, Set<(event: any) => void>>();

  /** Calls `listener` for each of these events. Returns a function that ends this. */
  on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }

  /** Forgets all listeners. */
  clear(): void {
    this.#listeners.clear();
  }

  emit<Name extends keyof Events>(name: Name, event: Events[Name]): void {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(event);
      } catch (error) {
        // An error of the application must not break the session. It is reported like any other error that nobody
        // catches.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }
}
