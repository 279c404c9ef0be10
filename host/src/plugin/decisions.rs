//! The decisions on the packets of a batch.

use super::bindings::{Decision, Decisions};

/// Returns the decision on each of the packets.
///
/// # Errors
/// Returns a text that says how the decisions contradict each other.
pub(super) fn split(decisions: Decisions, packets: usize) -> Result<Vec<Decision>, String> {
    let Decisions { counts, actions, rejections } = decisions;
    if counts.len() != packets {
        return Err(format!("`on-packets` answered with {} decisions on {packets} packets", counts.len()));
    }
    let (given, mut actions, mut rejections) = (actions.len(), actions.into_iter(), rejections.into_iter().peekable());
    let mut split = Vec::with_capacity(packets);
    for (place, &count) in (0..).zip(&counts) {
        split.push(match rejections.next_if(|(rejected, _)| *rejected == place) {
            Some((_, rejection)) if count == 0 => Err(rejection),
            Some(_) => return Err(format!("`on-packets` answered packet {place} with actions and a rejection")),
            None => Ok(actions.by_ref().take(count as usize).collect()),
        });
    }
    if let Some((place, _)) = rejections.next() {
        return Err(format!("`on-packets` rejected packet {place}, which is out of order or not in the batch"));
    }
    let counted: u64 = counts.into_iter().map(u64::from).sum();
    if counted != given as u64 {
        return Err(format!("`on-packets` answered with {given} actions, and counted {counted}"));
    }
    Ok(split)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::{Action, Rejection};

    fn rejected(place: u32) -> (u32, Rejection) {
        (place, Rejection { status: 300, message: String::new() })
    }

    fn split_into(counts: &[u32], actions: usize, rejected_places: &[u32]) -> Result<Vec<Result<usize, u16>>, String> {
        let actions = (0..actions).map(|_| Action::Echo).collect();
        let rejections = rejected_places.iter().map(|place| rejected(*place)).collect();
        let decisions = split(Decisions { counts: counts.to_vec(), actions, rejections }, 3)?;
        let short = |decision: Decision| decision.map(|it| it.len()).map_err(|rejection| rejection.status);
        Ok(decisions.into_iter().map(short).collect())
    }

    #[test]
    fn each_packet_gets_its_actions_or_its_rejection() {
        assert_eq!(split_into(&[1, 0, 2], 3, &[]), Ok(vec![Ok(1), Ok(0), Ok(2)]));
        assert_eq!(split_into(&[0, 2, 0], 2, &[0, 2]), Ok(vec![Err(300), Ok(2), Err(300)]));
    }

    #[test]
    fn decisions_that_contradict_each_other_are_refused() {
        for (counts, actions, rejections, why) in [
            (&[1, 1][..], 2, &[][..], "2 decisions on 3 packets"),
            (&[1, 1, 1], 2, &[], "2 actions, and counted 3"),
            (&[1, 1, 1], 4, &[], "4 actions, and counted 3"),
            (&[u32::MAX, u32::MAX, 1], 1, &[], "1 actions, and counted 8589934591"),
            (&[1, 1, 1], 3, &[1], "packet 1 with actions and a rejection"),
            (&[0, 0, 0], 0, &[3], "rejected packet 3, which"),
            (&[0, 0, 0], 0, &[1, 0], "rejected packet 0, which"),
            (&[0, 0, 0], 0, &[1, 1], "rejected packet 1, which"),
        ] {
            let error = split_into(counts, actions, rejections).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }
}
