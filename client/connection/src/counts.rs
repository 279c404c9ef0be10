use gateway_wire::packet::Header;

/// What the client has received in its session, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// The delivery number of the last push, or 0 if none has come.
    pub(crate) seen: u32,
    /// The number of replies.
    pub(crate) replies: u64,
}

impl Counts {
    /// Counts a packet of the gateway. Returns whether the packet is new: a push whose number is not after the last one
    /// has been received before.
    pub(crate) fn take(&mut self, header: Header) -> bool {
        if header.is_reply() {
            self.replies += 1;
            return true;
        }
        // The welcome and the pushes of the control route have no number.
        if header.seq == 0 {
            return true;
        }
        let is_new = self.seen == 0 || is_after(header.seq, self.seen);
        if is_new {
            self.seen = header.seq;
        }
        is_new
    }

    /// The acknowledgement that the next packet to the gateway carries, if there is anything to acknowledge.
    pub(crate) fn ack(&self) -> Option<u16> {
        // The low 16 bits are enough: far fewer pushes than that wait for an acknowledgement.
        (self.seen != 0).then_some((self.seen & 0xffff) as u16)
    }
}

/// Whether a delivery number comes after another one. The numbers wrap around, so half of them are after any number
/// (RFC 1982).
fn is_after(number: u32, other: u32) -> bool {
    (1..1 << 31).contains(&number.wrapping_sub(other))
}
