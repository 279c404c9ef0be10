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
            /// <summary>What the application waits for, or null.</summary>
            public TaskCompletionSource<byte[]> Reply;
            public CancellationToken Cancellation;
            /// <summary>Whether the replies to older packets that are still missing do not come any more.</summary>
            public bool IsBarrier;
        }

        private readonly Dictionary<uint, Request> _requests = new Dictionary<uint, Request>();
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
            _requests.Add(seq, new Request());
        }

        /// <summary>
        /// Adds a packet that finds the requests whose replies were lost with a connection. Replies come in the order
        /// of the packets, so the ones that are still missing when a later packet is answered do not come any more.
        /// </summary>
        public void AddBarrier(uint seq)
        {
            _requests.Add(seq, new Request { IsBarrier = true });
        }

        /// <summary>
        /// Takes note of a reply, which has an error if the packet was refused. Returns false if there is no such
        /// request.
        /// </summary>
        public bool Replied(uint seq, byte[] payload, Exception error)
        {
            Request request;
            if (!_requests.TryGetValue(seq, out request)) return false;
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
            foreach (var request in _requests.Values)
            {
                if (request.Reply == null || !request.Cancellation.IsCancellationRequested) continue;
                var reply = request.Reply;
                // The request stays, so that a late refusal does not count as one of a packet of Send.
                request.Reply = null;
                _later(() => reply.TrySetCanceled(request.Cancellation));
            }
        }

        /// <summary>Fails the requests among the last `count` packets before this seq.</summary>
        public void FailBefore(uint seq, long count, Exception error)
        {
            foreach (var other in new List<uint>(_requests.Keys))
            {
                if (unchecked(seq - other - 1) >= count) continue;
                Fail(_requests[other], error);
                _requests.Remove(other);
            }
        }

        public void FailAll(Exception error)
        {
            foreach (var request in _requests.Values) Fail(request, error);
            _requests.Clear();
        }

        private void Fail(Request request, Exception error)
        {
            var reply = request.Reply;
            if (reply != null) _later(() => reply.TrySetException(error));
        }
    }
}
