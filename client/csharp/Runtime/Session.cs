using System;
using System.Diagnostics;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace Gateway.Client
{
    /// <summary>
    /// A session with a gateway. It survives its connections: if one breaks, the session goes on over another one.
    ///
    /// Use a session from one thread. Its events and the replies to its requests come in <see cref="Poll"/>, on the
    /// thread that calls it.
    /// </summary>
    public sealed partial class Session
    {
        /// <summary>A connection has got its welcome: the first one, and each that follows a break.</summary>
        public event Action<Welcome> Welcome;

        /// <summary>A message that the client did not ask for.</summary>
        public event Action<Push> Push;

        /// <summary>The gateway has refused a packet of Send.</summary>
        public event Action<Refused> Refused;

        /// <summary>There is no connection, and the next attempt follows.</summary>
        public event Action<Reconnecting> Reconnecting;

        /// <summary>The session goes on over a new connection.</summary>
        public event Action<Resumed> Resumed;

        /// <summary>The session could not be kept, and a new one has begun.</summary>
        public event Action<NewSession> NewSession;

        /// <summary>Messages were lost, and do not come again.</summary>
        public event Action<Gap> Gap;

        /// <summary>
        /// The token expires in so many milliseconds. Call RefreshAsync, unless the session has a TokenSource.
        /// </summary>
        public event Action<long> TokenExpires;

        /// <summary>The session is over. Nothing follows.</summary>
        public event Action<ClosedException> Closed;

        /// <summary>
        /// Begins a session, which connects in the first call of <see cref="Poll"/>. Throws an ArgumentException if the
        /// URL is none of a WebSocket.
        /// </summary>
        public static Session Connect(SessionOptions options)
        {
            var clock = Stopwatch.StartNew();
            OpenSocket open = (url, token, protocols) => new Socket(url, token, protocols);
            return new Session(options, () => clock.ElapsedMilliseconds, open);
        }

        /// <summary>Begins a session with the gateway at this URL.</summary>
        public static Session Connect(string url)
        {
            return Connect(new SessionOptions { Url = url });
        }

        /// <summary>
        /// The id of the session, which is empty before the first welcome. It changes when a new session begins.
        /// </summary>
        public string Id { get; private set; } = "";

        /// <summary>Whether there is a connection now.</summary>
        public bool IsConnected
        {
            get { return _link != null && _link.WelcomedAt != null; }
        }

        /// <summary>Why the session is over, or null.</summary>
        public ClosedException Over { get; private set; }

        /// <summary>The number of bytes that wait for the network.</summary>
        public int BufferedBytes
        {
            get { return _link == null ? 0 : _link.QueuedBytes; }
        }

        /// <summary>
        /// Sends a packet, and returns its seq. Without a connection, the packet waits for the next one of this
        /// session. The event Refused says if the gateway refuses it. Throws a <see cref="ClosedException"/> if the
        /// session is over, and a <see cref="BufferFullException"/> if too many bytes wait for the network.
        /// </summary>
        public uint Send(byte route, byte[] payload)
        {
            if (Over != null) throw Over;
            var waiting = BufferedBytes;
            if (waiting > 0 && waiting + Packet.HeaderBytes + payload.Length > _sendBufferBytes)
            {
                throw new BufferFullException(waiting);
            }
            return SendAlways(route, payload);
        }

        /// <summary>Sends a text as UTF-8.</summary>
        public uint Send(byte route, string text)
        {
            return Send(route, Encoding.UTF8.GetBytes(text));
        }

        /// <summary>
        /// Sends a packet, and returns the payload of the reply. Throws a <see cref="StatusException"/> if the packet
        /// is refused, a <see cref="LostException"/> if the reply cannot come any more, and what Send throws. A chat
        /// request has no reply unless it is refused: use Send for it.
        /// </summary>
        public Task<byte[]> RequestAsync(byte route, byte[] payload, CancellationToken cancellation = default)
        {
            if (cancellation.IsCancellationRequested) return Task.FromCanceled<byte[]>(cancellation);
            try
            {
                return _requests.Add(Send(route, payload), cancellation);
            }
            catch (GatewayException error)
            {
                return Task.FromException<byte[]>(error);
            }
        }

        /// <summary>Sends a text as UTF-8, and returns the payload of the reply.</summary>
        public Task<byte[]> RequestAsync(byte route, string text, CancellationToken cancellation = default)
        {
            return RequestAsync(route, Encoding.UTF8.GetBytes(text), cancellation);
        }

        /// <summary>Sends a heartbeat, and returns the time of the round trip in milliseconds.</summary>
        public async Task<long> PingAsync()
        {
            var start = _clock();
            await RequestAsync(Route.System, "ping");
            return _clock() - start;
        }

        /// <summary>
        /// Replaces the token of the session by a newer one of the same user. Throws what RequestAsync throws.
        /// </summary>
        public async Task RefreshAsync(string token)
        {
            await RequestAsync(Route.Control, Control.EncodeRefresh(token));
            _usedToken = token;
            if (_tokenSource == null) _token = token;
        }

        /// <summary>
        /// Says that the network may have changed, or that the player is back. While the session waits for its next
        /// attempt, the next <see cref="Poll"/> connects, but never earlier than the gateway has asked for. A
        /// connection has to prove that it lives: if nothing comes within 5 seconds, it is cut, and the session goes on
        /// over another one.
        /// </summary>
        public void Wake()
        {
            if (_connectAt != null) _connectAt = _notBefore;
            else if (_link != null && _link.Check()) SendBeat();
        }

        /// <summary>
        /// Ends the session, after the packets that were sent over the present connection. This happens in the
        /// background, and needs no call of <see cref="Poll"/>.
        /// </summary>
        public void Close()
        {
            if (_link != null) _link.Close();
            End("the application has closed the session", 1000);
            Deliver();
        }

        /// <summary>
        /// Lets the session go on: connects, takes what has arrived, and raises the events. Call it often, such as in
        /// Update. An error of a listener comes out of it, and the next call goes on with the next event.
        /// </summary>
        public void Poll()
        {
            Deliver();
            _requests.Cancel();
            TakeTokens();
            if (_leaveAt <= _clock())
            {
                _leaveAt = null;
                _link.Leave();
            }
            if (_connectAt <= _clock())
            {
                _connectAt = null;
                WithNewestToken(Open);
            }
            for (var count = 0; _link != null && count < MaxEventsPerPoll; count++)
            {
                var happened = _link.Poll();
                if (happened == null) break;
                Take(happened.Value);
                Deliver();
            }
            Deliver();
        }
    }
}
