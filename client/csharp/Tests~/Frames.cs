using System;
using System.Collections.Concurrent;
using System.Threading;

namespace Gateway.Client.Tests
{
    /// <summary>The main thread of a game: methods that await go on here, frame by frame, as in Unity.</summary>
    internal sealed class Frames : SynchronizationContext
    {
        private readonly ConcurrentQueue<Action> _posted = new ConcurrentQueue<Action>();

        public override void Post(SendOrPostCallback callback, object state)
        {
            _posted.Enqueue(() => callback(state));
        }

        /// <summary>Calls `update` in each frame until it returns false.</summary>
        public void Run(Func<bool> update)
        {
            SetSynchronizationContext(this);
            while (update())
            {
                Action posted;
                while (_posted.TryDequeue(out posted)) posted();
                Thread.Sleep(5);
            }
        }
    }
}
