//! What the gateway keeps for each plugin over all its generations, by the plugin's name.

use super::{loops::LoopLimit, pause::Pause, timers::Timers};
use crate::{
    bus,
    delivery::{owner::Owner, registry::Registry},
    plugin::{
        Attributes, Keeper, Kept, SessionId,
        store::{Saved, Store},
    },
    sync::uptime::unix_ms,
    traces::Traces,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task, time};
use uuid::Uuid;

/// The time between two removals of expired entries.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What the gateway keeps for one plugin.
pub struct Account {
    /// The plugin's share of the bus's queue.
    pub share: bus::Share,
    /// The limit on publishes that lead back to the topic of the message that caused them.
    pub loops: LoopLimit,
    /// When messages are not decided on before their turn.
    pub pause: Pause,
    /// The plugin as the owner of tags, groups and interests.
    pub owner: Arc<Owner>,
    /// The plugin's state, and the attributes that it gave to sessions.
    pub kept: Arc<Kept>,
    /// The plugin's timers.
    pub timers: Timers,
}

impl Account {
    fn is_in_use(account: &Arc<Self>) -> bool {
        // A snapshot holds the account, a generation that is being started holds `kept`, and a session that the plugin
        // gave something holds the owner, which the account and its attributes hold as well.
        Arc::strong_count(account) > 1
            || Arc::strong_count(&account.owner) > 2
            || Arc::strong_count(&account.kept) > 1
            || account.kept.store.usage().entries > 0
            || !account.timers.is_empty()
    }
}

/// The accounts of all plugins.
pub struct Accounts {
    registry: Arc<Registry>,
    traces: Arc<Traces>,
    accounts: Mutex<HashMap<Arc<str>, Arc<Account>>>,
    /// The number of accounts that were ever opened.
    opened: AtomicU32,
    /// Wakes up the task that waits for timers.
    pub(super) timer_set: Arc<Notify>,
}

impl Accounts {
    pub(super) fn new(registry: Arc<Registry>, traces: Arc<Traces>) -> Self {
        Self { registry, traces, accounts: Mutex::default(), opened: AtomicU32::new(0), timer_set: Arc::default() }
    }

    /// Returns the account of a plugin. Opens it if there is none.
    pub(super) fn of(&self, plugin: &Arc<str>) -> Arc<Account> {
        Arc::clone(self.accounts().entry(Arc::clone(plugin)).or_insert_with(|| self.open()))
    }

    /// Returns the name of the plugin that is this owner.
    pub(super) fn name(&self, owner: u32) -> Option<Arc<str>> {
        self.accounts().iter().find(|(_, account)| account.owner.id == owner).map(|(name, _)| Arc::clone(name))
    }

    fn open(&self) -> Arc<Account> {
        let owner = Arc::new(Owner::new(self.opened.fetch_add(1, Ordering::Relaxed)));
        let attributes = AttributesOf { registry: Arc::clone(&self.registry), owner: Arc::clone(&owner) };
        // The operator's limit is set when a generation of the plugin is put to use.
        let kept = Kept::new(Store::new(usize::MAX), Box::new(attributes), Arc::clone(&self.traces));
        Arc::new(Account {
            share: bus::Share::default(),
            loops: LoopLimit::default(),
            pause: Pause::default(),
            owner,
            kept: Arc::new(kept),
            timers: Timers::new(Arc::clone(&self.timer_set)),
        })
    }

    /// Closes the accounts of plugins that do not serve and for which nothing is kept.
    pub(super) fn sweep(&self) {
        self.accounts().retain(|_, account| Account::is_in_use(account));
    }

    /// Removes expired entries of the plugins' state, for as long as the process runs.
    pub async fn remove_expired(&self) {
        loop {
            time::sleep(SWEEP_INTERVAL).await;
            let accounts: Vec<_> = self.accounts().values().cloned().collect();
            for account in accounts {
                // A million entries may expire at once, so the thread serves players in between.
                while account.kept.store.sweep(unix_ms()) {
                    task::yield_now().await;
                }
            }
        }
    }

    /// Returns the state of all plugins, for the file that survives the process.
    #[must_use]
    pub fn save(&self) -> BTreeMap<String, Saved> {
        let accounts = self.accounts();
        let saved = accounts.iter().map(|(name, account)| (name.to_string(), account.kept.store.entries()));
        saved.filter(|(_, saved)| !saved.entries.is_empty()).collect()
    }

    /// Puts the state of a file into the accounts, before any plugin serves.
    pub fn restore(&self, saved: BTreeMap<String, Saved>) {
        for (name, saved) in saved {
            self.of(&name.into()).kept.store.restore(saved);
        }
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for Accounts {
    fn kept(&self, plugin: &Arc<str>) -> Arc<Kept> {
        Arc::clone(&self.of(plugin).kept)
    }
}

/// The attributes that one plugin gave to sessions.
struct AttributesOf {
    registry: Arc<Registry>,
    owner: Arc<Owner>,
}

impl Attributes for AttributesOf {
    fn attribute(&self, SessionId { high, low }: SessionId, name: &str) -> Option<String> {
        self.registry.attribute(&self.owner, Uuid::from_u64_pair(high, low), name)
    }
}
