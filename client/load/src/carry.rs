//! Cuts a stream of bytes, which arrives in pieces of any size, into whole units.

/// The bytes of a unit that is not whole yet. Most pieces end with a unit, and such pieces are never copied.
#[derive(Default)]
pub(crate) struct Carry(Vec<u8>);

impl Carry {
    /// Calls `unit` with all bytes behind the last unit, as long as it finds a unit. `unit` returns the length of the
    /// unit that the bytes begin with, or `None` if that unit is not whole yet.
    pub(crate) fn feed<E>(
        &mut self,
        piece: &[u8],
        mut unit: impl FnMut(&[u8]) -> Result<Option<usize>, E>,
    ) -> Result<(), E> {
        if self.0.is_empty() {
            let taken = take_units(piece, &mut unit)?;
            self.0.extend_from_slice(&piece[taken..]);
        } else {
            self.0.extend_from_slice(piece);
            let taken = take_units(&self.0, &mut unit)?;
            self.0.drain(..taken);
        }
        Ok(())
    }
}

fn take_units<E>(bytes: &[u8], unit: &mut impl FnMut(&[u8]) -> Result<Option<usize>, E>) -> Result<usize, E> {
    let mut taken = 0;
    while taken < bytes.len()
        && let Some(length) = unit(&bytes[taken..])?
    {
        taken += length;
    }
    Ok(taken)
}

/// The ways in which tests cut a stream: not at all, after every byte, once at each place, and at random places.
#[cfg(test)]
pub(crate) fn cuts(stream: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut ways = vec![vec![stream], stream.chunks(1).collect()];
    // A long stream consists of payload, where one place is like another.
    let step = stream.len() / 2000 + 1;
    let places = (0..stream.len()).filter(|place| place % step == 0 || *place < 300 || stream.len() - place < 300);
    ways.extend(places.map(|place| vec![&stream[..place], &stream[place..]]));
    let mut random = 1_u64;
    for longest in [2, 3, 7, 20, 100, 1000] {
        for _ in 0..50 {
            let (mut way, mut rest) = (Vec::new(), stream);
            while !rest.is_empty() {
                // This is Knuth's linear congruential generator. Only its high bits are random enough.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (piece, after) = rest.split_at(((random >> 33) % longest + 1).min(rest.len() as u64) as usize);
                way.push(piece);
                rest = after;
            }
            ways.push(way);
        }
    }
    ways
}
