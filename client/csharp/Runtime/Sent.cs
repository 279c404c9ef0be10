using System;
using System.Collections.Generic;

namespace Gateway.Client
{
    /// <summary>
    /// The packets of a session that were sent last. They are kept, since the gateway may not have received them. Each
    /// has a number, which is its count in the session from 1 on.
    /// </summary>
    internal sealed class Sent
    {
        /// <summary>The most packets that are kept to be sent again.</summary>
        private const int MaxPackets = 256;

        /// <summary>
        /// The most bytes that are kept to be sent again. The last packet is always kept, and so are all that wait for a
        /// connection that lives: it is only slow.
        /// </summary>
        private const int MaxBytes = 64 << 10;

        /// <summary>The largest count of packets that a gateway can claim. Sums with it do not overflow.</summary>
        private const ulong MaxReceived = 1UL << 52;

        private readonly List<Packet> _packets = new List<Packet>();
        private int _bytes;
        /// <summary>The seq of the last packet. The seqs go on in a new session.</summary>
        private uint _seq;
        /// <summary>The number of the last packet.</summary>
        private long _last;
        /// <summary>The number of the last packet that was written to the present connection.</summary>
        private long _written;
        /// <summary>The number up to which no packet is sent again.</summary>
        private long _givenUp;
        /// <summary>Whether the present connection takes packets.</summary>
        private bool _isLive;

        /// <summary>The next packet to write, or null.</summary>
        public Packet? Unwritten
        {
            get
            {
                var index = Math.Max(0, _written - Forgotten);
                return index < _packets.Count ? _packets[(int)index] : (Packet?)null;
            }
        }

        /// <summary>The seq of the oldest packet that is kept, or of the next one. The seqs have no gaps.</summary>
        public uint Oldest
        {
            get { return unchecked(_seq - (uint)_packets.Count + 1); }
        }

        /// <summary>The number of packets that wait to be written.</summary>
        public int Waiting
        {
            get { return (int)(_last - Math.Max(_written, Forgotten)); }
        }

        /// <summary>The number of the last packet that is no longer kept.</summary>
        private long Forgotten
        {
            get { return _last - _packets.Count; }
        }

        /// <summary>Adds a packet with a copy of the payload. It waits to be written. Returns its seq.</summary>
        public uint Push(byte route, byte[] payload)
        {
            _seq = unchecked(_seq + 1);
            _packets.Add(new Packet { Seq = _seq, Route = route, Payload = (byte[])payload.Clone() });
            _bytes += Packet.HeaderBytes + payload.Length;
            _last += 1;
            Trim();
            return _seq;
        }

        /// <summary>Takes note that the next packet was written.</summary>
        public void Wrote()
        {
            _written = Math.Max(_written, Forgotten) + 1;
            Trim();
        }

        /// <summary>
        /// Takes note of the end of the connection. The packets that still wait count to those that are kept.
        /// </summary>
        public void End()
        {
            _isLive = false;
            Trim();
        }

        /// <summary>Decides that the packets that were written so far are never sent again.</summary>
        public void GiveUp()
        {
            _givenUp = _written;
        }

        /// <summary>
        /// Goes on after a resume, if the gateway has received the packets up to this number. The later ones wait to be
        /// written again, and are numbered as the gateway counts them. Returns the number of packets that are lost.
        /// </summary>
        public long Resume(ulong packetsReceived)
        {
            var received = (long)Math.Min(packetsReceived, MaxReceived);
            var lost = Math.Max(0, Math.Max(Forgotten, _givenUp) - received);
            var gone = Math.Max(received, _givenUp) - Forgotten;
            Forget((int)Math.Min(Math.Max(gone, 0), _packets.Count));
            _written = received;
            _last = received + _packets.Count;
            _givenUp = 0;
            _isLive = true;
            return lost;
        }

        /// <summary>
        /// Begins a new session, which gets none of the packets. Returns the number of those that were not written.
        /// </summary>
        public long Restart()
        {
            var lost = Math.Max(0, _last - _written);
            Forget(_packets.Count);
            _last = _written = _givenUp = 0;
            _isLive = true;
            return lost;
        }

        /// <summary>Forgets the oldest packets if there are too many.</summary>
        private void Trim()
        {
            var count = 0;
            var bytes = _bytes;
            while (_packets.Count - count > MaxPackets || bytes > MaxBytes && _packets.Count - count > 1)
            {
                // A packet that is forgotten unwritten has a number, but the gateway does not count it. The next
                // welcome tells.
                if (_isLive && Forgotten + count >= _written) break;
                bytes -= Packet.HeaderBytes + _packets[count].Payload.Length;
                count += 1;
            }
            Forget(count);
        }

        private void Forget(int count)
        {
            for (var index = 0; index < count; index++) _bytes -= Packet.HeaderBytes + _packets[index].Payload.Length;
            _packets.RemoveRange(0, count);
        }
    }
}
