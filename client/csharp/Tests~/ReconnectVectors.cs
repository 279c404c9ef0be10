using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Fields = System.Collections.Generic.Dictionary<string, object>;

namespace Gateway.Client.Tests
{
    /// <summary>Runs every case of client/vectors/reconnect.json against the state.</summary>
    internal static class ReconnectVectors
    {
        private static readonly string[] Checked =
        {
            "then", "delay_ms", "url", "outcome", "delivered", "ack", "leave_after_ms",
        };

        public static void Run(Suite suite)
        {
            foreach (var item in Cases("reconnect.json"))
            {
                suite.Test((string)item["name"], () => Check(item));
            }
        }

        public static IEnumerable<Fields> Cases(string file)
        {
            var table = (Fields)Json.Read(File.ReadAllText(Path.Combine("client/vectors", file)));
            return ((List<object>)table["cases"]).Cast<Fields>();
        }

        private static void Check(Fields item)
        {
            var state = new State((string)item["url"]);
            var number = 0;
            foreach (Fields step in (List<object>)item["steps"])
            {
                number += 1;
                var effect = Happen(state, step["event"], Number(step, "lived_ms"));
                effect["url"] = state.Url;
                if (step.ContainsKey("ack"))
                {
                    state.Sent.Push(Route.Chat, new byte[0]);
                    var packet = state.NextPacket().Value;
                    state.Sent.Wrote();
                    effect["ack"] = packet.Flags == Packet.FlagAck ? packet.Status : (object)null;
                }
                foreach (var expected in step.Where(entry => entry.Key != "event" && entry.Key != "lived_ms"))
                {
                    var what = "step " + number + ", " + expected.Key;
                    if (!Checked.Contains(expected.Key)) throw new Exception(what + ": this test does not know it");
                    object real;
                    effect.TryGetValue(expected.Key, out real);
                    Suite.Same(what, real, expected.Value);
                }
            }
        }

        private static Fields Happen(State state, object happened, long livedMs)
        {
            var kind = happened as string ?? ((Fields)happened).Keys.Single();
            var value = happened is string ? null : ((Fields)happened)[kind];
            switch (kind)
            {
                case "welcome":
                    return Outcome(state.Welcome(WelcomeOf((Fields)value)));
                case "push":
                    return Delivered(state.Receive(new Packet { Seq = (uint)(long)value }));
                case "reply":
                    return Delivered(state.Receive(new Packet { Seq = 1, Flags = Packet.FlagReply }));
                case "send":
                    for (var count = (long)value; count > 0; count--) state.Sent.Push(Route.Chat, new byte[0]);
                    return new Fields();
                case "written":
                    for (var count = (long)value; count > 0; count--)
                    {
                        if (state.NextPacket() == null) throw new Exception("no packet waits");
                        state.Sent.Wrote();
                    }
                    return new Fields();
                case "reconnect":
                    var reconnect = (Fields)value;
                    var after = state.LeaveAfter((string)reconnect["url"], Number(reconnect, "after_ms"));
                    return new Fields { { "leave_after_ms", after } };
                default:
                    return Decided(state.Ended(EndOf(kind, value), livedMs));
            }
        }

        private static End EndOf(string kind, object value)
        {
            switch (kind)
            {
                case "closed":
                    return new End { Code = (int?)(long?)value };
                case "refused":
                    var refused = (Fields)value;
                    return new End
                    {
                        Cause = Cause.Refused,
                        HttpStatus = (int)Number(refused, "status"),
                        RetryAfterMs = 1000 * Number(refused, "retry_after_s"),
                    };
                default:
                    // no_welcome is the cause NoWelcome.
                    return new End { Cause = (Cause)Enum.Parse(typeof(Cause), kind.Replace("_", ""), true) };
            }
        }

        private static Welcome WelcomeOf(Fields fields)
        {
            object token, resumed;
            fields.TryGetValue("resume_token", out token);
            fields.TryGetValue("resumed", out resumed);
            return new Welcome
            {
                ResumeToken = (string)token ?? "",
                Resumed = (bool?)resumed ?? false,
                PacketsReceived = (ulong)Number(fields, "packets_received"),
                RepliesLost = (uint)Number(fields, "replies_lost"),
            };
        }

        private static long Number(Fields fields, string name)
        {
            object number;
            return fields.TryGetValue(name, out number) ? (long)number : 0;
        }

        private static Fields Outcome(Outcome outcome)
        {
            Fields fields;
            if (outcome.Resumed)
            {
                fields = new Fields { { "resent", outcome.Resent }, { "lost", outcome.Lost } };
                fields.Add("replies_lost", outcome.RepliesLost);
            }
            else fields = new Fields { { "seen", outcome.Seen }, { "lost", outcome.Lost } };
            return new Fields { { "outcome", new Fields { { outcome.Resumed ? "resumed" : "new", fields } } } };
        }

        private static Fields Delivered(uint? missing)
        {
            return new Fields { { "delivered", missing != null } };
        }

        private static Fields Decided(Decision decision)
        {
            if (decision.Next == Next.Stop) return new Fields { { "then", "stop" } };
            if (decision.Next == Next.RenewToken) return new Fields { { "then", "renew_token" } };
            var delay = Suite.List(decision.AtLeastMs, decision.AtMostMs);
            return new Fields { { "then", "reconnect" }, { "delay_ms", delay } };
        }
    }
}
