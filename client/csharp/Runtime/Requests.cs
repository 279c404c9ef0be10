using System;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;

namespace Gateway.Client
{
    /// <summary>The requests of a session whose replies have not come yet, by the seqs of their packets.</summary>
    internal sealed class Requests
    {
        private sealed class Request
        {
            /// <summary>What the application waits for, or null if this is a barrier.</summary>
            public TaskCompletionSource<byte[]> Reply;
            public CancellationToken Cancellation;
            /// <summary>Whether the replies to older packets that are still missing do not come any more.</summary>
            public bool IsBarrier;
        }

        /// <summary>The most packets of which is remembered that nobody waits for their replies.</summary>
        private const int MaxUnwanted = 256;

        private readonly Dictionary<uint, Request> _requests = new Dictionary<uint, Request>();
        /// <summary>
        /// The packets whose replies nobody waits for any more, the oldest first. Their refusals are no events.
        /// </summary>
        private readonly Queue<uint> _unwanted = new Queue<uint>();
        /// <summary>Calls the application later.</summary>
        private readonly Action<Action> _later;

        public Requests(Action<Action> later)
        {
            _later = later;
        }

        /// <summary>Returns the payload of the reply.</summary>
        public Task<byte[]> Add(uint seq, CancellationToken cancellation)
        {
            var reply = new TaskCompletionSource<byte[]>();
            _requests.Add(seq, new Request { Reply = reply, Cancellation = cancellation });
            return reply.Task;
        }

        /// <summary>Adds a packet whose reply nobody waits for.</summary>
        public void AddHeartbeat(uint seq)
        {
            Unwant(seq);
        }

        /// <summary>
        /// Adds a packet that finds the requests whose replies were lost with a connection: those without a reply when
        /// it is answered. Only a refusal because of the bus may come later still, and nobody waits for it then.
        /// </summary>
        public void AddBarrier(uint seq)
        {
            _requests.Add(seq, new Request { IsBarrier = true });
        }

        /// <summary>
        /// Takes note of a reply, which has an error if the packet was refused. Returns false if the packet was none of
        /// these.
        /// </summary>
        public bool Replied(uint seq, byte[] payload, Exception error)
        {
            Request request;
            if (!_requests.TryGetValue(seq, out request)) return _unwanted.Contains(seq);
            _requests.Remove(seq);
            if (request.IsBarrier)
            {
                FailBefore(seq, 1L << 31, new LostException("the reply was lost with the connection"));
            }
            if (error != null) Fail(request, error);
            else if (request.Reply != null) _later(() => request.Reply.TrySetResult(payload));
            return true;
        }

        /// <summary>Cancels what the application does not wait for any more.</summary>
        public void Cancel()
        {
            foreach (var seq in new List<uint>(_requests.Keys))
            {
                var request = _requests[seq];
                if (request.Reply == null || !request.Cancellation.IsCancellationRequested) continue;
                Unwant(seq);
                _later(() => request.Reply.TrySetCanceled(request.Cancellation));
            }
        }

        /// <summary>Fails the requests among the last `count` packets before this seq.</summary>
        public void FailBefore(uint seq, long count, Exception error)
        {
            foreach (var other in new List<uint>(_requests.Keys))
            {
                Request request;
                if (unchecked(seq - other - 1) >= count || !_requests.TryGetValue(other, out request)) continue;
                Fail(request, error);
                Unwant(other);
                // Nothing else tells of the replies that this packet should have found.
                if (request.IsBarrier) FailBefore(other, 1L << 31, error);
            }
        }

        public void FailAll(Exception error)
        {
            foreach (var request in _requests.Values) Fail(request, error);
            _requests.Clear();
            _unwanted.Clear();
        }

        /// <summary>Takes note that nobody waits for the reply to this packet any more.</summary>
        private void Unwant(uint seq)
        {
            _requests.Remove(seq);
            _unwanted.Enqueue(seq);
            // Many packets never get a reply.
            if (_unwanted.Count > MaxUnwanted) _unwanted.Dequeue();
        }

        private void Fail(Request request, Exception error)
        {
            var reply = request.Reply;
            if (reply != null) _later(() => reply.TrySetException(error));
        }
    }
}
