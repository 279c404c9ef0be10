using System;
using System.Collections.Concurrent;
using System.Net.WebSockets;
using System.Threading;
using System.Threading.Tasks;

namespace Gateway.Client
{
    /// <summary>What has happened on a WebSocket.</summary>
    internal struct SocketEvent
    {
        public enum Happening
        {
            /// <summary>The upgrade has succeeded.</summary>
            Opened,
            Received,
            /// <summary>The WebSocket is over. Nothing follows.</summary>
            Closed,
        }

        public Happening Kind;
        /// <summary>The message, or null for a text, which no gateway sends.</summary>
        public byte[] Message;
        /// <summary>The code of the gateway's close frame, or null if there was no close frame.</summary>
        public int? Code;
        /// <summary>The reason in the close frame, or what has broken the connection.</summary>
        public string Reason;
    }

    /// <summary>A WebSocket that is asked for what has happened. The tests play one.</summary>
    internal interface ISocket
    {
        /// <summary>The number of bytes that wait to be sent.</summary>
        int QueuedBytes { get; }

        /// <summary>Takes what has happened next. Returns false if nothing has.</summary>
        bool TryTake(out SocketEvent happened);

        void Send(byte[] message);

        /// <summary>Closes the WebSocket after what was sent, within two seconds. Messages may still arrive.</summary>
        void Close(int code);

        /// <summary>Closes the WebSocket without a close frame.</summary>
        void Abort();
    }

    /// <summary>Begins to connect. The token may be null.</summary>
    internal delegate ISocket OpenSocket(string url, string token, string[] protocols);

    /// <summary>
    /// The WebSocket of .NET. Its own tasks send and receive on threads of the runtime, and never call the application:
    /// what has happened waits until somebody takes it.
    /// </summary>
    internal sealed class Socket : ISocket
    {
        /// <summary>
        /// The most messages that wait to be taken. While there are so many, nothing is received, so that a game that
        /// stands still slows the gateway down instead of running out of memory.
        /// </summary>
        private const int MaxWaitingMessages = 1024;

        /// <summary>
        /// The largest message. It is the largest one that a gateway sends by default, and a bound for others.
        /// </summary>
        private const int MaxMessageBytes = 16 << 20;

        /// <summary>The size of the buffer for messages, unless one is larger.</summary>
        private const int BufferBytes = 16 << 10;

        /// <summary>The time for the gateway's answer to a close frame.</summary>
        private const int CloseTimeoutMs = 2000;

        private readonly ClientWebSocket _socket = new ClientWebSocket();
        private readonly ConcurrentQueue<SocketEvent> _happened = new ConcurrentQueue<SocketEvent>();
        private readonly SemaphoreSlim _room = new SemaphoreSlim(MaxWaitingMessages);
        private readonly ConcurrentQueue<byte[]> _outgoing = new ConcurrentQueue<byte[]>();
        /// <summary>Counts what is in `_outgoing`, and the close frame.</summary>
        private readonly SemaphoreSlim _toSend = new SemaphoreSlim(0);
        private readonly CancellationTokenSource _abort = new CancellationTokenSource();
        private int _queuedBytes;
        /// <summary>Why nothing can be sent any more, or null.</summary>
        private volatile string _cannotSend;
        /// <summary>The code to close with, or 0 if nobody has closed the WebSocket.</summary>
        private int _closeCode;

        public int QueuedBytes
        {
            get { return Volatile.Read(ref _queuedBytes); }
        }

        /// <summary>
        /// Begins to connect. Throws if a header or a subprotocol has a character that it cannot have.
        /// </summary>
        public Socket(string url, string token, string[] protocols)
        {
            // The session sends heartbeats of its own, since nobody is told of the answers to those of this class.
            _socket.Options.KeepAliveInterval = TimeSpan.Zero;
            if (!string.IsNullOrEmpty(token)) _socket.Options.SetRequestHeader("Authorization", "Bearer " + token);
            foreach (var protocol in protocols) _socket.Options.AddSubProtocol(protocol);
            Task.Run(() => RunAsync(new Uri(url)));
        }

        public bool TryTake(out SocketEvent happened)
        {
            if (!_happened.TryDequeue(out happened)) return false;
            if (happened.Kind == SocketEvent.Happening.Received) _room.Release();
            return true;
        }

        public void Send(byte[] message)
        {
            Interlocked.Add(ref _queuedBytes, message.Length);
            _outgoing.Enqueue(message);
            _toSend.Release();
        }

        public void Close(int code)
        {
            if (Interlocked.CompareExchange(ref _closeCode, code, 0) != 0) return;
            _toSend.Release();
            _abort.CancelAfter(CloseTimeoutMs);
        }

        public void Abort()
        {
            // Not on the thread of the game, since closing may take its time.
            Task.Run(() => _abort.Cancel());
        }

        private async Task RunAsync(Uri url)
        {
            try
            {
                await _socket.ConnectAsync(url, _abort.Token).ConfigureAwait(false);
            }
            catch (Exception error)
            {
                _socket.Dispose();
                _happened.Enqueue(EndOf(error));
                return;
            }
            _happened.Enqueue(new SocketEvent { Kind = SocketEvent.Happening.Opened });
            var sending = SendAllAsync();
            var end = await ReceiveAllAsync().ConfigureAwait(false);
            // The answer to the close frame may take its time, and the session goes on meanwhile.
            _happened.Enqueue(end);
            if (end.Code == null) _abort.Cancel();
            else Close(end.Code.Value);
            await Task.WhenAny(sending, Task.Delay(CloseTimeoutMs)).ConfigureAwait(false);
            _socket.Dispose();
        }

        /// <summary>Sends until the WebSocket is closed or broken.</summary>
        private async Task SendAllAsync()
        {
            try
            {
                while (true)
                {
                    await _toSend.WaitAsync(_abort.Token).ConfigureAwait(false);
                    byte[] message;
                    if (!_outgoing.TryDequeue(out message)) break;
                    var sending = _socket.SendAsync(
                        new ArraySegment<byte>(message), WebSocketMessageType.Binary, true, _abort.Token);
                    await sending.ConfigureAwait(false);
                    Interlocked.Add(ref _queuedBytes, -message.Length);
                }
                var closing = _socket.CloseOutputAsync((WebSocketCloseStatus)_closeCode, "", _abort.Token);
                await closing.ConfigureAwait(false);
            }
            catch (Exception error)
            {
                _cannotSend = EndOf(error).Reason;
                _abort.Cancel();
            }
        }

        /// <summary>Receives until the WebSocket is closed or broken. Returns its end.</summary>
        private async Task<SocketEvent> ReceiveAllAsync()
        {
            try
            {
                var buffer = new byte[BufferBytes];
                while (true)
                {
                    await _room.WaitAsync(_abort.Token).ConfigureAwait(false);
                    var length = 0;
                    WebSocketReceiveResult part;
                    do
                    {
                        if (length == MaxMessageBytes) return EndOf("a message is too large for this client");
                        if (length == buffer.Length) Array.Resize(ref buffer, 2 * length);
                        var free = new ArraySegment<byte>(buffer, length, buffer.Length - length);
                        part = await _socket.ReceiveAsync(free, _abort.Token).ConfigureAwait(false);
                        length += part.Count;
                    }
                    while (!part.EndOfMessage);
                    if (part.MessageType == WebSocketMessageType.Close) return EndOf(part);
                    byte[] message = null;
                    if (part.MessageType == WebSocketMessageType.Binary)
                    {
                        message = new byte[length];
                        Array.Copy(buffer, message, length);
                    }
                    _happened.Enqueue(new SocketEvent { Kind = SocketEvent.Happening.Received, Message = message });
                    if (buffer.Length > BufferBytes) buffer = new byte[BufferBytes];
                }
            }
            catch (Exception error)
            {
                return _cannotSend == null ? EndOf(error) : EndOf(_cannotSend);
            }
        }

        private static SocketEvent EndOf(WebSocketReceiveResult close)
        {
            var end = EndOf(close.CloseStatusDescription ?? "");
            end.Code = (int?)close.CloseStatus;
            return end;
        }

        private static SocketEvent EndOf(Exception error)
        {
            // The outer errors only say that something has failed.
            while (error.InnerException != null) error = error.InnerException;
            return EndOf(error.Message);
        }

        private static SocketEvent EndOf(string reason)
        {
            return new SocketEvent { Kind = SocketEvent.Happening.Closed, Reason = reason };
        }
    }
}
