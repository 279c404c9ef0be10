namespace Gateway.Client
{
    /// <summary>A message that the client did not ask for.</summary>
    public struct Push
    {
        public byte Route { get; internal set; }
        public byte[] Payload { get; internal set; }

        /// <summary>The delivery number, or 0 for a push that is not counted.</summary>
        public uint Number { get; internal set; }

        /// <summary>Whether older pushes were skipped on purpose, since only the newest of them matters.</summary>
        public bool Replaced { get; internal set; }
    }

    /// <summary>The gateway has refused a packet of Send.</summary>
    public struct Refused
    {
        /// <summary>What Send has returned.</summary>
        public uint Seq { get; internal set; }

        public StatusException Error { get; internal set; }
    }

    /// <summary>There is no connection, and the next attempt follows.</summary>
    public struct Reconnecting
    {
        public string Why { get; internal set; }

        /// <summary>The time before the next attempt in milliseconds.</summary>
        public long DelayMs { get; internal set; }
    }

    /// <summary>The session goes on over a new connection. What the client has missed follows.</summary>
    public struct Resumed
    {
        /// <summary>The time without a connection in milliseconds.</summary>
        public long AwayMs { get; internal set; }

        /// <summary>How many packets are sent again, because the gateway has not received them.</summary>
        public int Resent { get; internal set; }

        /// <summary>How many packets the gateway has not received and that are not sent again.</summary>
        public long Lost { get; internal set; }

        /// <summary>How many replies do not come any more.</summary>
        public uint RepliesLost { get; internal set; }
    }

    /// <summary>The session could not be kept, and a new one has begun. Fetch the state of your game again.</summary>
    public struct NewSession
    {
        /// <summary>The time without a connection in milliseconds.</summary>
        public long AwayMs { get; internal set; }

        /// <summary>The number of the last push of the old session. What came after it is lost.</summary>
        public uint Seen { get; internal set; }

        /// <summary>How many packets were never sent.</summary>
        public long Lost { get; internal set; }
    }

    /// <summary>Messages were lost, and do not come again.</summary>
    public struct Gap
    {
        /// <summary>How many pushes were lost because the client reads too slowly, or 0.</summary>
        public uint Pushes { get; internal set; }

        /// <summary>
        /// For how many milliseconds the gateway did not hear the backends, so that an unknown number was lost, or 0.
        /// </summary>
        public long BlindMs { get; internal set; }
    }
}
