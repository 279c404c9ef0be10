using System;
using System.Threading.Tasks;

namespace Gateway.Client
{
    /// <summary>How a session connects. Later changes have no effect.</summary>
    public sealed class SessionOptions
    {
        /// <summary>
        /// The gateway's URL, such as wss://game.example/ws. Plugins may ask for parameters in its query.
        /// </summary>
        public string Url { get; set; }

        /// <summary>The JSON Web Token, or null.</summary>
        public string Token { get; set; }

        /// <summary>
        /// Returns the newest token. With it instead of <see cref="Token"/>, the session renews its token by itself:
        /// Poll calls the function for each connection, and when the token is about to expire.
        /// </summary>
        public Func<Task<string>> TokenSource { get; set; }

        /// <summary>The subprotocols to offer.</summary>
        public string[] Protocols { get; set; } = new string[0];

        /// <summary>The time between two heartbeats in milliseconds.</summary>
        public int HeartbeatMs { get; set; } = 25000;

        /// <summary>
        /// The most bytes that may wait for the network. Send throws a <see cref="BufferFullException"/> beyond it. A
        /// packet that is larger is sent when nothing else waits.
        /// </summary>
        public int SendBufferBytes { get; set; } = 256 << 10;
    }
}
