using System;

namespace Gateway.Client
{
    /// <summary>
    /// What a client knows about its session, and what it does when a connection ends.
    ///
    /// Nothing in here does I/O, reads a clock or draws a random number. Times are parameters in milliseconds, and a
    /// delay is a range in which the caller draws. docs/protocol.md explains the decisions ("Reconnect and resume"),
    /// and client/vectors/reconnect.json lists them.
    /// </summary>
    internal sealed class State
    {
        /// <summary>The longest delay before the second attempt. It doubles with each attempt that follows.</summary>
        private const long BaseMs = 500;

        /// <summary>The longest delay before any attempt.</summary>
        private const long CapMs = 30000;

        /// <summary>
        /// The time after its welcome at which a connection counts as good, so that the delays begin anew.
        /// </summary>
        private const long LivedMs = 10000;

        /// <summary>The least delay after code 1009. Nothing becomes better if the client comes back at once.</summary>
        private const long SlowMs = 10000;

        /// <summary>The longest time that a server can make the client wait.</summary>
        private const long MaxWaitMs = 3600000;

        /// <summary>
        /// The number of connections in a row without a welcome after which the server is no gateway.
        /// </summary>
        private const int MaxWithoutWelcome = 5;

        /// <summary>
        /// The number of failed attempts in a row at the URL of a Reconnect after which the client goes back to its
        /// own.
        /// </summary>
        private const int MaxFailuresElsewhere = 4;

        /// <summary>The longest resume token. A URL has to have an end.</summary>
        private const int MaxTokenLength = 1024;

        public readonly Sent Sent = new Sent();
        /// <summary>The URL that the user has chosen.</summary>
        private readonly WebSocketUrl _own;
        /// <summary>The URL of the next connection.</summary>
        private WebSocketUrl _url;
        /// <summary>The resume token of the last welcome, or null.</summary>
        private string _token;
        /// <summary>Whether there was a welcome at all.</summary>
        private bool _hasBegun;
        /// <summary>Whether the present connection has got its welcome.</summary>
        private bool _isWelcome;
        /// <summary>The number of connections and attempts in a row of which none has lived.</summary>
        private int _failures;
        /// <summary>The number of attempts in a row that have failed at the present URL.</summary>
        private int _failuresHere;
        /// <summary>The number of connections in a row that ended without a welcome.</summary>
        private int _withoutWelcome;
        /// <summary>The delivery number of the last push, or 0.</summary>
        private uint _seen;
        /// <summary>The number of replies.</summary>
        private ulong _replies;

        /// <summary>Throws an ArgumentException if the URL is none of a WebSocket.</summary>
        public State(string url)
        {
            _own = _url = WebSocketUrl.Parse(url);
            if (_own != null) return;
            const string Forms = "ws://HOST:PORT/ws or wss://HOST:PORT/ws";
            throw new ArgumentException("the URL " + url + " does not have the form " + Forms);
        }

        /// <summary>The URL to connect to, with what resumes the session if it can be resumed.</summary>
        public string Url
        {
            get
            {
                if (_token == null) return _url.ToString();
                return _url.With("resume=" + _token + "&seen=" + _seen + "&replies=" + _replies);
            }
        }

        /// <summary>Takes note of the welcome of a connection.</summary>
        public Outcome Welcome(Welcome welcome)
        {
            // A gateway cannot resume a session that nobody has asked for.
            var resumed = welcome.Resumed && _token != null;
            _token = IsToken(welcome.ResumeToken) ? welcome.ResumeToken : null;
            var hadBegun = _hasBegun;
            _hasBegun = _isWelcome = true;
            _failuresHere = _withoutWelcome = 0;
            if (resumed)
            {
                var lost = Sent.Resume(welcome.PacketsReceived);
                var outcome = new Outcome { Resumed = true, Resent = Sent.Waiting, Lost = lost };
                outcome.RepliesLost = welcome.RepliesLost;
                return outcome;
            }
            var seen = _seen;
            _seen = 0;
            _replies = 0;
            // The first session gets the packets that have waited for it.
            return new Outcome { Seen = seen, Lost = hadBegun ? Sent.Restart() : Sent.Resume(0) };
        }

        /// <summary>
        /// Counts a packet of the gateway. Returns the number of pushes that are missing before it, or null if it has
        /// come before: then the application must not get it.
        /// </summary>
        public uint? Receive(Packet packet)
        {
            if (packet.IsReply)
            {
                _replies += 1;
                return 0;
            }
            // The welcome and the pushes of the control route have no number.
            if (packet.Seq == 0) return 0;
            // The numbers wrap around, so half of them are after any number (RFC 1982).
            var distance = unchecked(packet.Seq - _seen);
            if (_seen != 0 && (distance == 0 || distance >= 1U << 31)) return null;
            // After 4294967295 comes 1.
            var missing = distance - (packet.Seq < _seen ? 2U : 1U);
            _seen = packet.Seq;
            return missing;
        }

        /// <summary>
        /// The next packet to write to the present connection, with the newest acknowledgement, or null.
        /// </summary>
        public Packet? NextPacket()
        {
            var next = Sent.Unwritten;
            if (next == null || _seen == 0) return next;
            var packet = next.Value;
            // The low 16 bits are enough: far fewer pushes than that wait for an acknowledgement.
            packet.Flags = Packet.FlagAck;
            packet.Status = unchecked((ushort)_seen);
            return packet;
        }

        /// <summary>
        /// Takes note of a Reconnect. Returns the time after which the client has to leave the connection.
        /// </summary>
        public long LeaveAfter(string url, long afterMs)
        {
            var next = WebSocketUrl.Parse(url);
            // A URL that cannot be used is as good as none. Without TLS, everybody on the way would read the tokens.
            if (next != null && (next.IsSecure || !_url.IsSecure)) _url = next.WithQueryOf(_url);
            return Math.Min(Math.Max(afterMs, 0), MaxWaitMs);
        }

        /// <summary>
        /// Decides what to do after the end of a connection or of an attempt, which has lived since its welcome.
        /// </summary>
        public Decision Ended(End end, long livedMs)
        {
            var isAttempt = !_isWelcome;
            _isWelcome = false;
            Sent.End();
            // The gateway has chosen the moment. It only must not be able to make the client turn in a circle.
            if (end.Cause == Cause.Left)
            {
                var delay = Backoff(0, livedMs);
                return livedMs >= LivedMs ? Decision.Of(Next.Reconnect) : delay;
            }
            // If there has never been a gateway, the application has to know at once.
            if (!_hasBegun) return Decision.Of(Next.Stop);
            // Probably one of the packets was too large. It would be too large again.
            if (end.Code == 1009) Sent.GiveUp();
            var isRefusal = end.Cause == Cause.NoGateway || end.Cause == Cause.Refused;
            if (isAttempt)
            {
                _failuresHere += 1;
                if (!isRefusal && end.Cause != Cause.Unreachable) _withoutWelcome += 1;
            }
            var verdict = VerdictOf(end);
            var isNever = verdict.Next == Next.Stop;
            var isNoGateway = _withoutWelcome >= MaxWithoutWelcome || isRefusal && isNever;
            var isHopelessHere = isNoGateway || _failuresHere >= MaxFailuresElsewhere;
            if (verdict.Next == Next.RenewToken || isNever && !isRefusal) return verdict;
            if (isAttempt && isHopelessHere && _url.ToString() != _own.ToString())
            {
                _url = _own;
                _failuresHere = _withoutWelcome = 0;
                return Backoff(0, livedMs);
            }
            return isNever || isNoGateway ? Decision.Of(Next.Stop) : Backoff(verdict.AtLeastMs, livedMs);
        }

        /// <summary>Exponential backoff with full jitter, on top of the least delay that was asked for.</summary>
        private Decision Backoff(long atLeastMs, long livedMs)
        {
            if (livedMs >= LivedMs) _failures = 0;
            var ceiling = Math.Min(BaseMs << Math.Min(_failures, 16), CapMs);
            _failures += 1;
            return new Decision { AtLeastMs = atLeastMs, AtMostMs = atLeastMs + ceiling };
        }

        /// <summary>What an end alone means. The longest delay is not decided yet.</summary>
        private static Decision VerdictOf(End end)
        {
            switch (end.Cause)
            {
                case Cause.NoGateway:
                    return Decision.Of(Next.Stop);
                case Cause.Refused:
                    var isBusy = end.HttpStatus == 429 || end.HttpStatus >= 500 && end.HttpStatus <= 599;
                    if (!isBusy) return Decision.Of(Next.Stop);
                    return new Decision { AtLeastMs = Math.Min(end.RetryAfterMs, MaxWaitMs) };
                case Cause.Closed:
                    return VerdictOfCode(end.Code ?? 0);
                default:
                    return Decision.Of(Next.Reconnect);
            }
        }

        private static Decision VerdictOfCode(int code)
        {
            if (code == 1009) return new Decision { AtLeastMs = SlowMs };
            if (code == 4001) return Decision.Of(Next.RenewToken);
            var isProtocol = code == 1000 || code == 1002 || code == 1003 || code == 1007 || code == 1008;
            var isFinal = isProtocol || code >= 3000 && code <= 4999;
            return Decision.Of(isFinal ? Next.Stop : Next.Reconnect);
        }

        /// <summary>Whether a text can stand in a URL as it is.</summary>
        private static bool IsToken(string text)
        {
            if (text.Length == 0 || text.Length > MaxTokenLength) return false;
            foreach (var character in text)
            {
                var isLetter = character >= 'a' && character <= 'z' || character >= 'A' && character <= 'Z';
                var isDigit = character >= '0' && character <= '9';
                if (!isLetter && !isDigit && character != '.' && character != '_' && character != '-') return false;
            }
            return true;
        }
    }
}
