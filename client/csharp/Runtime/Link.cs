using System;

namespace Gateway.Client
{
    /// <summary>What a connection tells its session.</summary>
    internal struct LinkEvent
    {
        public enum Happening
        {
            /// <summary>A message has come.</summary>
            Received,
            /// <summary>A heartbeat is due.</summary>
            Beat,
            /// <summary>The connection is over. Nothing follows.</summary>
            Ended,
        }

        public Happening Kind;
        /// <summary>The message, or null for a text, which no gateway sends.</summary>
        public byte[] Message;
        public End End;
        public string Why;
    }

    /// <summary>One connection: the time that it may take, the heartbeats, and the reason of its end.</summary>
    internal sealed class Link
    {
        /// <summary>
        /// The time for the name lookup, TCP, TLS and the upgrade together. A gateway allows as much for an upgrade.
        /// </summary>
        private const long ConnectTimeoutMs = 10000;

        /// <summary>The time that the welcome may take after the upgrade. A gateway sends it first.</summary>
        private const long WelcomeTimeoutMs = 5000;

        /// <summary>The time for the gateway's answer to a close frame.</summary>
        private const long CloseTimeoutMs = 2000;

        /// <summary>The time in which something has to come after a check.</summary>
        private const long CheckTimeoutMs = 5000;

        /// <summary>The close code of a client that goes on with its session over another connection.</summary>
        private const int Cut = 4000;

        /// <summary>The close codes that stand for a close frame without a code.</summary>
        private const int NoCode = 1005;

        private readonly ISocket _socket;
        private readonly Func<long> _clock;
        private bool _isOpen, _isLeaving, _isOver;
        /// <summary>When the connection, or what is due in it, is late.</summary>
        private long _deadline;
        /// <summary>Whether the next message ends a check.</summary>
        private bool _isChecking;
        private long _heartbeatMs;
        /// <summary>How many heartbeats in a row have brought nothing.</summary>
        private int _unanswered;

        /// <summary>The clock counts milliseconds.</summary>
        public Link(ISocket socket, Func<long> clock)
        {
            _socket = socket;
            _clock = clock;
            Within(ConnectTimeoutMs);
        }

        /// <summary>When the welcome came, or null.</summary>
        public long? WelcomedAt { get; private set; }

        /// <summary>Whether a packet can be sent now.</summary>
        public bool IsWritable
        {
            get { return WelcomedAt != null && !_isLeaving && !_isOver; }
        }

        public int QueuedBytes
        {
            get { return _socket.QueuedBytes; }
        }

        public void Send(byte[] packet)
        {
            _socket.Send(packet);
        }

        /// <summary>Takes note of the welcome. A heartbeat is due in these intervals from now on.</summary>
        public void Welcomed(long heartbeatMs)
        {
            WelcomedAt = _clock();
            _heartbeatMs = heartbeatMs;
            Within(heartbeatMs);
        }

        /// <summary>
        /// Cuts the connection if nothing comes soon. Returns whether a heartbeat has to be sent for it now.
        /// </summary>
        public bool Check()
        {
            // Another check must not put off the end of the first one.
            if (!IsWritable || _isChecking) return false;
            Within(CheckTimeoutMs);
            _isChecking = true;
            return true;
        }

        /// <summary>Leaves the connection, but not the session. What still arrives is received.</summary>
        public void Leave()
        {
            _isLeaving = true;
            Within(CloseTimeoutMs);
            _socket.Close(Cut);
        }

        /// <summary>Ends the session, after what was sent.</summary>
        public void Close()
        {
            _isOver = true;
            _socket.Close(1000);
        }

        /// <summary>Returns what has happened next, or null if nothing has.</summary>
        public LinkEvent? Poll()
        {
            SocketEvent happened;
            while (!_isOver && _socket.TryTake(out happened))
            {
                if (happened.Kind == SocketEvent.Happening.Closed) return Closed(happened.Code, happened.Reason);
                if (happened.Kind == SocketEvent.Happening.Received)
                {
                    _unanswered = 0;
                    if (_isChecking) Within(_heartbeatMs);
                    return new LinkEvent { Kind = LinkEvent.Happening.Received, Message = happened.Message };
                }
                _isOpen = true;
                Within(WelcomeTimeoutMs);
            }
            return _isOver || _clock() < _deadline ? (LinkEvent?)null : Late();
        }

        private LinkEvent? Late()
        {
            if (_isLeaving) return Left();
            if (!_isOpen) return CutOff(Cause.Unreachable, "the gateway has not answered in time");
            if (WelcomedAt == null) return CutOff(Cause.NoWelcome, "the welcome has not come in time");
            if (_isChecking) return CutOff(Cause.Silent, "the gateway has not answered the check of the connection");
            // A game may stand still for a while, for example while it loads a level. So a time without a message
            // proves nothing: two heartbeats without an answer do.
            if (_unanswered >= 2) return CutOff(Cause.Silent, "the gateway has not answered the heartbeats");
            _unanswered += 1;
            Within(_heartbeatMs);
            return new LinkEvent { Kind = LinkEvent.Happening.Beat };
        }

        /// <summary>Expects something in this time, instead of what was expected before.</summary>
        private void Within(long milliseconds)
        {
            _deadline = _clock() + milliseconds;
            _isChecking = false;
        }

        private LinkEvent? Closed(int? code, string reason)
        {
            var details = string.IsNullOrEmpty(reason) ? "" : ": " + reason;
            if (_isLeaving && (code == null || code == Cut || code == NoCode)) return Left();
            if (!_isOpen) return Ended(Cause.Unreachable, "the gateway cannot be reached" + details);
            if (code == null) return Ended(Cause.Lost, "the connection is lost" + details);
            if (code == NoCode) return Ended(Cause.Closed, "the gateway closed the connection without a code");
            var why = "the gateway closed the connection: " + code + (details.Length > 0 ? " " + reason : "");
            return Ended(Cause.Closed, why, code);
        }

        private LinkEvent? Left()
        {
            _socket.Abort();
            return Ended(Cause.Left, "the gateway stops, and has asked this client to reconnect");
        }

        /// <summary>
        /// Ends a connection on which nobody answers, so there is no close frame, which would have to wait.
        /// </summary>
        private LinkEvent? CutOff(Cause cause, string why)
        {
            _socket.Abort();
            return Ended(cause, why);
        }

        private LinkEvent? Ended(Cause cause, string why, int? code = null)
        {
            _isOver = true;
            var end = new End { Cause = cause, Code = code };
            return new LinkEvent { Kind = LinkEvent.Happening.Ended, End = end, Why = why };
        }
    }
}
