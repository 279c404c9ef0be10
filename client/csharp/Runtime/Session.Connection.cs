using System;
using System.Collections.Generic;
using System.Text;
using System.Threading.Tasks;

namespace Gateway.Client
{
    // The connections of a session, and what arrives on them.
    public sealed partial class Session
    {
        /// <summary>
        /// The most events of a connection that one Poll takes, so that a gateway that sends a lot does not keep the
        /// game from its next frame.
        /// </summary>
        private const int MaxEventsPerPoll = 1024;

        /// <summary>The payload of a heartbeat.</summary>
        private static readonly byte[] Beat = Encoding.UTF8.GetBytes("beat");

        /// <summary>What the application has to be told.</summary>
        private struct News
        {
            public Action Tell;
            /// <summary>Whether it is told also after the end of the session.</summary>
            public bool EvenIfOver;
        }

        private readonly Func<long> _clock;
        private readonly OpenSocket _open;
        private readonly string[] _protocols;
        private readonly int _heartbeatMs;
        private readonly int _sendBufferBytes;
        private readonly Func<Task<string>> _tokenSource;
        private readonly State _state;
        // Many clients lose their connections at the same moment, so the time must not be the seed of their delays.
        private readonly Random _random = new Random(Guid.NewGuid().GetHashCode());
        private readonly Requests _requests;
        /// <summary>Looks whether the application has returned the tokens that are awaited.</summary>
        private readonly Queue<Action> _awaitedTokens = new Queue<Action>();
        private readonly Queue<News> _news = new Queue<News>();
        private bool _isDelivering;
        /// <summary>The token of the next connection, unless there is a source.</summary>
        private string _token;
        /// <summary>The token that the gateway knows.</summary>
        private string _usedToken;
        private Link _link;
        /// <summary>The moment of the next attempt, or null.</summary>
        private long? _connectAt;
        /// <summary>The moment before which the next attempt must not begin.</summary>
        private long _notBefore;
        /// <summary>The moment at which the client leaves its connection, or null.</summary>
        private long? _leaveAt;
        /// <summary>When the last connection with a welcome ended.</summary>
        private long _lostAt;

        internal Session(SessionOptions options, Func<long> clock, OpenSocket open)
        {
            _state = new State(options.Url);
            _requests = new Requests(tell => _news.Enqueue(new News { Tell = tell, EvenIfOver = true }));
            _clock = clock;
            _open = open;
            _protocols = options.Protocols;
            _heartbeatMs = options.HeartbeatMs;
            _sendBufferBytes = options.SendBufferBytes;
            _token = options.Token;
            _tokenSource = options.TokenSource;
            _connectAt = _notBefore = clock();
        }

        /// <summary>Calls `then` with the newest token, as soon as the application has returned it.</summary>
        private void WithNewestToken(Action<Task<string>> then)
        {
            Task<string> token;
            try
            {
                token = _tokenSource == null ? Task.FromResult(_token) : _tokenSource();
            }
            catch (Exception error)
            {
                token = Task.FromException<string>(error);
            }
            Await(token, then);
        }

        private void Await(Task<string> token, Action<Task<string>> then)
        {
            if (token.IsCompleted) then(token);
            else _awaitedTokens.Enqueue(() => Await(token, then));
        }

        private void TakeTokens()
        {
            for (var count = _awaitedTokens.Count; count > 0; count--) _awaitedTokens.Dequeue()();
        }

        private void Open(Task<string> token)
        {
            // The application may have closed the session meanwhile.
            if (Over != null) return;
            try
            {
                _usedToken = token.GetAwaiter().GetResult();
                _link = new Link(_open(_state.Url, _usedToken, _protocols), _clock);
            }
            catch (Exception error)
            {
                var why = "there is no token, or no WebSocket: " + error.Message;
                LinkEnded(new End { Cause = Cause.Unreachable }, why);
            }
        }

        private void Take(LinkEvent happened)
        {
            switch (happened.Kind)
            {
                case LinkEvent.Happening.Beat:
                    SendBeat();
                    break;
                case LinkEvent.Happening.Ended:
                    LinkEnded(happened.End, happened.Why);
                    break;
                default:
                    var packet = Packet.Decode(happened.Message);
                    if (!IsConnected) Begin(packet);
                    else if (packet != null) Receive(packet.Value);
                    break;
            }
        }

        /// <summary>Begins or goes on with the session, as the first message of a connection says.</summary>
        private void Begin(Packet? first)
        {
            var welcome = first == null ? null : WelcomeOf(first.Value);
            if (welcome == null)
            {
                _link.Close();
                const string Why = "the first message is not the welcome: this is no gateway";
                LinkEnded(new End { Cause = Cause.NoGateway }, Why);
                return;
            }
            var isFirst = Id.Length == 0;
            Id = welcome.SessionId;
            _link.Welcomed(_heartbeatMs);
            var outcome = _state.Welcome(welcome);
            if (outcome.Resumed || isFirst)
            {
                var lost = new LostException("the gateway has not received the packet, and it is not sent again");
                _requests.FailBefore(_state.Sent.Oldest, outcome.Lost, lost);
            }
            else _requests.FailAll(new LostException("a new session has begun, which does not get the reply"));
            if (outcome.RepliesLost > 0) _requests.AddBarrier(SendAlways(Route.System, Beat));
            var awayMs = _clock() - _lostAt;
            Tell(() => Welcome?.Invoke(welcome));
            if (outcome.Resumed)
            {
                var resumed = new Resumed
                {
                    AwayMs = awayMs, Resent = outcome.Resent, Lost = outcome.Lost, RepliesLost = outcome.RepliesLost,
                };
                Tell(() => Resumed?.Invoke(resumed));
            }
            else if (!isFirst)
            {
                var info = new NewSession { AwayMs = awayMs, Seen = outcome.Seen, Lost = outcome.Lost };
                Tell(() => NewSession?.Invoke(info));
            }
            Write();
        }

        private static Welcome WelcomeOf(Packet packet)
        {
            var isWelcome = packet.Route == Route.System && packet.Seq == 0 && packet.Status == 0 && !packet.IsReply;
            return isWelcome ? Client.Welcome.Decode(packet.Payload) : null;
        }

        private void Receive(Packet packet)
        {
            var missing = _state.Receive(packet);
            if (missing == null) return;
            if (packet.IsReply) TakeReply(packet);
            else if (packet.Route == Route.Control) TakeControl(Control.Decode(packet.Payload));
            else
            {
                if (missing > 0) Tell(() => Gap?.Invoke(new Gap { Pushes = missing.Value }));
                var push = new Push
                {
                    Route = packet.Route,
                    Payload = packet.Payload,
                    Number = packet.Seq,
                    Replaced = (packet.Flags & Packet.FlagReplaces) != 0,
                };
                Tell(() => Push?.Invoke(push));
            }
        }

        private void TakeReply(Packet packet)
        {
            StatusException error = null;
            if (packet.Status != 0)
            {
                error = new StatusException(packet.Route, packet.Status, Encoding.UTF8.GetString(packet.Payload));
            }
            if (_requests.Replied(packet.Seq, packet.Payload, error) || error == null) return;
            Tell(() => Refused?.Invoke(new Refused { Seq = packet.Seq, Error = error }));
        }

        private void TakeControl(Control? control)
        {
            if (control == null) return;
            switch (control.Value.Kind)
            {
                case Control.Event.Gap:
                    Tell(() => Gap?.Invoke(new Gap { BlindMs = control.Value.Ms }));
                    break;
                case Control.Event.Reconnect:
                    _leaveAt = _clock() + _state.LeaveAfter(control.Value.Url, control.Value.Ms);
                    break;
                case Control.Event.TokenExpires:
                    Tell(() => TokenExpires?.Invoke(control.Value.Ms));
                    if (_tokenSource != null) WithNewestToken(Refresh);
                    break;
            }
        }

        /// <summary>
        /// If this fails, the session keeps its old token. When that expires, the client connects again with a newer
        /// one.
        /// </summary>
        private void Refresh(Task<string> token)
        {
            var newer = token.Status == TaskStatus.RanToCompletion ? token.Result : null;
            if (Over != null || string.IsNullOrEmpty(newer) || newer == _usedToken) return;
            _ = RefreshAsync(newer);
        }

        private void LinkEnded(End end, string why)
        {
            var now = _clock();
            var livedMs = 0L;
            if (IsConnected)
            {
                _lostAt = now;
                livedMs = now - _link.WelcomedAt.Value;
            }
            _link = null;
            _leaveAt = null;
            var decision = _state.Ended(end, livedMs);
            switch (decision.Next)
            {
                case Next.Stop:
                    End(why, end.Code);
                    break;
                case Next.RenewToken:
                    WithNewestToken(token => Renew(token, why, end.Code));
                    break;
                default:
                    Wait(decision, why);
                    break;
            }
        }

        /// <summary>Connects with a new token, or ends the session without one.</summary>
        private void Renew(Task<string> token, string why, int? code)
        {
            if (Over != null) return;
            var newer = token.Status == TaskStatus.RanToCompletion ? token.Result : null;
            if (string.IsNullOrEmpty(newer) || newer == _usedToken) End(why, code);
            else Wait(Decision.Of(Next.Reconnect), why);
        }

        private void Wait(Decision decision, string why)
        {
            var range = decision.AtMostMs - decision.AtLeastMs;
            var delayMs = decision.AtLeastMs + (long)(_random.NextDouble() * range);
            _notBefore = _clock() + decision.AtLeastMs;
            _connectAt = _clock() + delayMs;
            Tell(() => Reconnecting?.Invoke(new Reconnecting { Why = why, DelayMs = delayMs }));
        }

        private void SendBeat()
        {
            _requests.AddHeartbeat(SendAlways(Route.System, Beat));
        }

        private uint SendAlways(byte route, byte[] payload)
        {
            var seq = _state.Sent.Push(route, payload);
            Write();
            return seq;
        }

        private void Write()
        {
            while (_link != null && _link.IsWritable)
            {
                var packet = _state.NextPacket();
                if (packet == null) return;
                _link.Send(packet.Value.Encode());
                _state.Sent.Wrote();
            }
        }

        /// <summary>Ends the session.</summary>
        private void End(string why, int? code)
        {
            if (Over != null) return;
            Over = new ClosedException(why, code);
            _link = null;
            _connectAt = null;
            _leaveAt = null;
            _requests.FailAll(Over);
            _news.Enqueue(new News { Tell = () => Closed?.Invoke(Over), EvenIfOver = true });
        }

        /// <summary>Tells it to the application, unless a listener closes the session before.</summary>
        private void Tell(Action news)
        {
            _news.Enqueue(new News { Tell = news });
        }

        /// <summary>
        /// Tells the application what has happened. This comes after the session has taken note of it, so that
        /// listeners may use the session, and so that their errors do not harm it.
        /// </summary>
        private void Deliver()
        {
            // A listener has called the session.
            if (_isDelivering) return;
            _isDelivering = true;
            try
            {
                while (_news.Count > 0)
                {
                    var news = _news.Dequeue();
                    if (Over == null || news.EvenIfOver) news.Tell();
                }
            }
            finally
            {
                _isDelivering = false;
            }
        }
    }
}
