namespace Gateway.Client
{
    /// <summary>How a connection ended, or why an attempt gave none.</summary>
    internal enum Cause
    {
        /// <summary>The gateway sent a close frame.</summary>
        Closed,
        /// <summary>
        /// The answer to the upgrade is an HTTP status. ClientWebSocket hides it, and says Unreachable.
        /// </summary>
        Refused,
        /// <summary>The connection broke without a close frame.</summary>
        Lost,
        /// <summary>Nothing was received for too long.</summary>
        Silent,
        /// <summary>There is no answer to the upgrade.</summary>
        Unreachable,
        /// <summary>The connection was upgraded, but the welcome did not come in time.</summary>
        NoWelcome,
        /// <summary>The first packet is not the welcome.</summary>
        NoGateway,
        /// <summary>The client has left the connection, since the gateway has asked for it.</summary>
        Left,
    }

    /// <summary>The end of a connection or of an attempt.</summary>
    internal struct End
    {
        public Cause Cause;
        /// <summary>The code of the close frame, or null if it has none.</summary>
        public int? Code;
        public int HttpStatus;
        public long RetryAfterMs;
    }

    /// <summary>What the client does when a connection has ended.</summary>
    internal enum Next
    {
        /// <summary>Connect after a delay.</summary>
        Reconnect,
        /// <summary>Connect at once with a new token, and stop without one.</summary>
        RenewToken,
        Stop,
    }

    internal struct Decision
    {
        public Next Next;
        /// <summary>The range of the delay in milliseconds. All delays in it are equally likely.</summary>
        public long AtLeastMs, AtMostMs;

        public static Decision Of(Next next)
        {
            return new Decision { Next = next };
        }
    }

    /// <summary>What a welcome means for the session.</summary>
    internal struct Outcome
    {
        /// <summary>Whether the session goes on. Otherwise it is new.</summary>
        public bool Resumed;
        /// <summary>The number of packets that are sent again.</summary>
        public int Resent;
        /// <summary>The number of packets that were not received, and are not sent again.</summary>
        public long Lost;
        public uint RepliesLost;
        /// <summary>
        /// The number of the last push of the old session, after which the client has missed something.
        /// </summary>
        public uint Seen;
    }
}
