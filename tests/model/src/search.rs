//! An exhaustive search of the states of a model, breadth first.
//!
//! A state is known by a hash of 128 bits, so that millions of states fit into memory. The states of a counterexample are
//! made again from its actions.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt::{self, Debug, Display, Formatter},
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// A system whose states can be searched.
pub trait Model {
    /// A state of the whole system.
    type State: Clone + Hash;
    /// A step from one state to another.
    type Action: Copy + Debug;

    /// Returns the first state.
    fn initial(&self) -> Self::State;

    /// Returns the steps that are possible in a state.
    fn actions(&self, state: &Self::State) -> Vec<Self::Action>;

    /// Returns the state after a step.
    fn after(&self, state: &Self::State, action: Self::Action) -> Self::State;
}

/// Checks a state and the steps that are possible in it. Returns the name of the property that the state violates.
pub type Check<'a, S, A> = dyn Fn(&S, &[A]) -> Result<(), &'static str> + 'a;

/// What is checked.
pub struct Checks<'a, M: Model> {
    /// Checks each state.
    pub always: &'a Check<'a, M::State, M::Action>,
    /// Returns whether a state is one that has to be reachable from every state.
    pub is_goal: &'a dyn Fn(&M::State) -> bool,
    /// Returns a bit for each kind of state that has to occur at least once.
    pub kinds: &'a dyn Fn(&M::State) -> u32,
}

/// The outcome of a search that has found no counterexample.
#[derive(Clone, Copy, Debug)]
pub struct Searched {
    /// The number of states.
    pub states: usize,
    /// The kinds of states that occur.
    pub kinds: u32,
}

/// A way to a state that violates a property. It is one of the shortest.
#[derive(Clone, Debug)]
pub struct Counterexample<A> {
    /// The property.
    pub property: &'static str,
    /// The steps from the first state.
    pub steps: Vec<A>,
}

impl<A: Debug> Display for Counterexample<A> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "after these steps, it does not hold that {}:", self.property)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

/// A state that was found.
#[derive(Clone, Copy)]
struct Found {
    /// The state from which it was found first.
    from: u32,
    /// The number of the step among those that were possible there.
    step: u32,
}

/// Visits every state of the model.
///
/// # Errors
/// Returns a [`Counterexample`] if a state violates a property.
pub fn search<M: Model>(model: &M, checks: &Checks<'_, M>) -> Result<Searched, Counterexample<M::Action>> {
    let initial = model.initial();
    let mut known = HashMap::<u128, u32, BuildHasherDefault<Prehashed>>::default();
    known.insert(fingerprint(&initial), 0);
    let mut found = vec![Found { from: 0, step: 0 }];
    let (mut edges, mut goals, mut kinds) = (Vec::new(), Vec::new(), 0);
    let mut level = vec![(0, initial)];
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for (index, state) in level {
            let actions = model.actions(&state);
            if let Err(property) = (checks.always)(&state, &actions) {
                return Err(trace(model, &found, index, property));
            }
            kinds |= (checks.kinds)(&state);
            if (checks.is_goal)(&state) {
                goals.push(index);
            }
            for (step, action) in (0..).zip(actions) {
                let next = model.after(&state, action);
                let target = match known.entry(fingerprint(&next)) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(vacant) => {
                        let target = u32::try_from(found.len()).expect("fewer than 2^32 states");
                        found.push(Found { from: index, step });
                        next_level.push((target, next));
                        *vacant.insert(target)
                    }
                };
                edges.push((target, index));
            }
        }
        level = next_level;
    }
    match stuck(found.len(), &mut edges, goals) {
        Some(index) => Err(trace(model, &found, index, "from every state, a goal can be reached")),
        None => Ok(Searched { states: found.len(), kinds }),
    }
}

/// Returns the first state from which no goal can be reached. The edges lead from a state to one before it.
fn stuck(states: usize, edges: &mut [(u32, u32)], goals: Vec<u32>) -> Option<u32> {
    edges.sort_unstable();
    let mut reaches = vec![false; states];
    let mut open = goals;
    while let Some(state) = open.pop() {
        if std::mem::replace(&mut reaches[state as usize], true) {
            continue;
        }
        let first = edges.partition_point(|(target, _)| *target < state);
        open.extend(edges[first..].iter().take_while(|(target, _)| *target == state).map(|(_, from)| *from));
    }
    (0..).zip(&reaches).find(|(_, reaches)| !**reaches).map(|(state, _)| state)
}

fn trace<M: Model>(model: &M, found: &[Found], last: u32, property: &'static str) -> Counterexample<M::Action> {
    let mut indices = Vec::new();
    let mut index = last;
    while index != 0 {
        let Found { from, step } = found[index as usize];
        indices.push(step as usize);
        index = from;
    }
    let mut state = model.initial();
    let mut steps = Vec::new();
    for step in indices.into_iter().rev() {
        let action = model.actions(&state)[step];
        state = model.after(&state, action);
        steps.push(action);
    }
    Counterexample { property, steps }
}

fn fingerprint(state: &impl Hash) -> u128 {
    let mut hasher = Fingerprint(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);
    state.hash(&mut hasher);
    u128::from(mix(hasher.0)) << 64 | u128::from(mix(hasher.1))
}

/// The two halves of a hash.
struct Fingerprint(u64, u64);

impl Fingerprint {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.1 = mix(self.1.rotate_left(23).wrapping_add(word));
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.add(number.into());
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.add(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Spreads the bits of a word (the last step of MurmurHash3).
fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

/// The hasher of fingerprints, which are hashes already.
#[derive(Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn write(&mut self, _: &[u8]) {}

    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
