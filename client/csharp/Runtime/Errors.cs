using System;

namespace Gateway.Client
{
    /// <summary>What can go wrong with a packet or a session.</summary>
    public abstract class GatewayException : Exception
    {
        internal GatewayException(string message) : base(message)
        {
        }
    }

    /// <summary>The gateway or a plugin has refused the packet. The session goes on.</summary>
    public sealed class StatusException : GatewayException
    {
        public byte Route { get; }

        /// <summary>One of <see cref="Client.Status"/>, or a number from 256 on that the game defines.</summary>
        public ushort Status { get; }

        /// <summary>The reason, in the words of the gateway or the plugin.</summary>
        public string Text { get; }

        internal StatusException(byte route, ushort status, string text)
            : base("status " + status + " " + Client.Status.NameOf(status) + " on route " + route + ": " + text)
        {
            Route = route;
            Status = status;
            Text = text;
        }
    }

    /// <summary>
    /// The reply cannot come any more. Either the gateway has never received the packet, or the reply was lost with the
    /// connection. The session goes on, or a new one has begun.
    /// </summary>
    public sealed class LostException : GatewayException
    {
        internal LostException(string message) : base(message)
        {
        }
    }

    /// <summary>
    /// The network is slower than the game sends, and <see cref="SessionOptions.SendBufferBytes"/> wait already. The
    /// packet is not sent, and the session goes on.
    /// </summary>
    public sealed class BufferFullException : GatewayException
    {
        internal BufferFullException(int bytes)
            : base("the packet is not sent: " + bytes + " bytes wait for the network, so send less often, or later")
        {
        }
    }

    /// <summary>The session is over, and the client does not come back by itself.</summary>
    public sealed class ClosedException : GatewayException
    {
        /// <summary>
        /// The close code of the gateway, 1000 if the application has closed the session, or null without a code.
        /// </summary>
        public int? Code { get; }

        internal ClosedException(string message, int? code) : base(message)
        {
            Code = code;
        }
    }
}
