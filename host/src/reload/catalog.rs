//! The plugins directory and what became of each of its files. A version is loaded whole before anything is swapped; where it is
//! not fit, the last good one stays.

use crate::{
    config::Config,
    plugin::{Compiler, Described, Plugin, Settings, lane::Lane},
    reload::watched::{Look, Stamp, Watched},
    telemetry::metrics::Metrics,
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// The largest file that is loaded.
const FILE_BYTES: u64 = 64 << 20;

/// Every file of a directory whose name ends in `.wasm`.
pub struct Catalog {
    compiler: Compiler,
    metrics: Arc<Metrics>,
    files: BTreeMap<PathBuf, File>,
    /// What was last put to use, by plugin name.
    serving: Vec<Arc<Plugin>>,
    /// By plugin name.
    lanes: BTreeMap<Arc<str>, Arc<Lane>>,
}

#[derive(Default)]
struct File {
    watched: Watched,
    digest: Option<[u8; 32]>,
    described: Option<Arc<Described>>,
    /// The settings that its code was last tried with.
    tried: Option<Settings>,
    /// The newest version that is fit.
    fit: Option<Arc<Plugin>>,
    /// What is in use.
    serving: Option<Arc<Plugin>>,
    /// Why the newest content is no plugin,
    unfit: Option<String>,
    /// why the plugin does not start with its newest settings,
    refused: Option<String>,
    /// and why a fit version is not in use.
    conflict: Option<String>,
}

/// What is to be known of a file.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// The file's name.
    pub file: String,
    /// The plugin that serves from it, with its version.
    pub serving: Option<String>,
    /// Why its newest content is not in use.
    pub error: Option<String>,
}

impl Catalog {
    /// A catalog of no files.
    #[must_use]
    pub fn new(compiler: Compiler, metrics: Arc<Metrics>) -> Self {
        Self { compiler, metrics, files: BTreeMap::new(), serving: Vec::new(), lanes: BTreeMap::new() }
    }

    /// Loads every file of the directory as it is now.
    pub fn load_all(&mut self, directory: &Path, config: &Config) {
        self.look(directory, config);
        self.look(directory, config);
    }

    /// Looks at the directory and loads what changed and is settled. True where something changed so lately that another look is
    /// wanted soon.
    pub fn look(&mut self, directory: &Path, config: &Config) -> bool {
        for path in wasm_files(directory) {
            self.files.entry(path).or_default();
        }
        let paths: Vec<_> = self.files.keys().cloned().collect();
        let mut unsettled = false;
        for path in paths {
            let stamp = Stamp::of(&path);
            match self.files.get_mut(&path).map(|file| file.watched.look(stamp.clone())) {
                Some(Look::Changed) => self.read(&path, stamp, config),
                Some(Look::Unsettled) => unsettled = true,
                Some(Look::Same) | None => {}
            }
        }
        unsettled
    }

    fn read(&mut self, path: &Path, stamp: Stamp, config: &Config) {
        let name = file_name(path);
        // A link that leads nowhere is still a file of the directory; without one, the plugin is taken away.
        if matches!(stamp, Stamp::Absent(_)) && fs::symlink_metadata(path).is_err() {
            if let Some(File { serving: Some(plugin), .. }) = self.files.remove(path) {
                self.metrics.reloaded(plugin.name(), "removed");
                tracing::info!(file = name, plugin = &**plugin.name(), "plugin removed");
            }
            return;
        }
        let began = Instant::now();
        let bytes = read(path);
        if Stamp::of(path) != stamp {
            return; // replaced while it was read: the next look sees it
        }
        let Some(file) = self.files.get_mut(path) else { return };
        file.watched.take(stamp);
        let digest = bytes.as_ref().ok().map(|bytes| Sha256::digest(bytes).into());
        if digest.is_some() && digest == file.digest {
            return;
        }
        file.digest = digest;
        let described =
            bytes.and_then(|bytes| Described::load(&self.compiler, &bytes).map_err(|error| error.to_string()));
        match described {
            Ok(described) => {
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(
                    file = name,
                    plugin = &*described.name,
                    version = described.version,
                    took_ms,
                    "plugin compiled"
                );
                file.described = Some(Arc::new(described));
                file.tried = None;
                file.unfit = None;
                file.start(&name, config, &mut self.lanes, &self.metrics);
            }
            Err(error) => {
                file.reject(&name, &error, &self.metrics);
                file.unfit = Some(error);
            }
        }
    }

    /// Tries every plugin whose settings changed with the new ones.
    pub fn configure(&mut self, config: &Config) {
        for (path, file) in &mut self.files {
            file.start(&file_name(path), config, &mut self.lanes, &self.metrics);
        }
    }

    /// Chooses what is to serve: of every file the newest version that is fit, unless it claims what another one holds. Nothing
    /// where that is what serves already.
    pub fn assemble(&mut self) -> Option<Assembly> {
        let mut chosen: Vec<_> = self.files.iter_mut().map(|(path, file)| Choice::new(path, file)).collect();
        while let Some((loser, why)) = first_conflict(&chosen) {
            chosen[loser].step_back(why);
        }
        let news = chosen.iter_mut().filter_map(|choice| choice.settle(&self.metrics)).collect();
        let mut plugins: Vec<_> = chosen.iter().filter_map(|choice| choice.plugin.clone()).collect();
        plugins.sort_by(|a, b| a.name().cmp(b.name()));
        let same = plugins.iter().map(Arc::as_ptr).eq(self.serving.iter().map(Arc::as_ptr));
        self.serving.clone_from(&plugins);
        (!same).then_some(Assembly { plugins, news })
    }

    /// What became of each file.
    #[must_use]
    pub fn report(&self) -> Vec<Report> {
        let report = |(path, file): (&PathBuf, &File)| Report {
            file: file_name(path),
            serving: file.serving.as_ref().map(|plugin| format!("{} {}", plugin.name(), plugin.version())),
            error: [&file.unfit, &file.refused, &file.conflict].into_iter().flatten().next().cloned(),
        };
        self.files.iter().map(report).collect()
    }
}

impl File {
    /// Starts the code with its settings, unless that was tried before.
    fn start(&mut self, name: &str, config: &Config, lanes: &mut BTreeMap<Arc<str>, Arc<Lane>>, metrics: &Metrics) {
        let Some(described) = &self.described else { return };
        let settings = config.plugin(&described.name, &described.routes);
        if self.tried.as_ref() == Some(&settings) {
            return;
        }
        self.tried = Some(settings.clone());
        let lane =
            lanes.entry(Arc::clone(&described.name)).or_insert_with_key(|name| Arc::new(Lane::new(Arc::clone(name))));
        match Plugin::start(Arc::clone(described), settings, Arc::clone(lane), metrics) {
            Ok(plugin) => {
                self.fit = Some(Arc::new(plugin));
                self.refused = None;
            }
            Err(error) => {
                let error = error.to_string();
                self.reject(name, &error, metrics);
                self.refused = Some(error);
            }
        }
    }

    fn reject(&self, name: &str, error: &str, metrics: &Metrics) {
        let plugin = self.serving.as_ref().map(|serving| Arc::clone(serving.name()));
        metrics.reloaded(plugin.as_deref().unwrap_or(name), "rejected");
        match plugin {
            Some(plugin) => tracing::error!(
                file = name,
                plugin = &*plugin,
                "plugin rejected, the last good version serves on: {error}"
            ),
            None => tracing::error!(file = name, "plugin rejected: {error}"),
        }
    }
}

/// What one file is to serve with.
struct Choice<'a> {
    path: &'a Path,
    file: &'a mut File,
    plugin: Option<Arc<Plugin>>,
    conflict: Option<String>,
}

impl<'a> Choice<'a> {
    fn new(path: &'a Path, file: &'a mut File) -> Self {
        let plugin = file.fit.clone();
        Self { path, file, plugin, conflict: None }
    }

    /// From the newest version to the one in use, and from that to none.
    fn step_back(&mut self, why: String) {
        let last = self.file.serving.clone();
        let same = |last: &Arc<Plugin>| self.plugin.as_ref().is_some_and(|plugin| Arc::ptr_eq(plugin, last));
        self.plugin = last.filter(|last| !same(last));
        self.conflict.get_or_insert(why);
    }

    /// Whether what serves from the file holds this.
    fn holds(&self, name: &str, route: Option<u8>) -> bool {
        let holds =
            |last: &Arc<Plugin>| &**last.name() == name || route.is_some_and(|route| last.routes().contains(&route));
        self.file.serving.as_ref().is_some_and(holds)
    }

    /// Makes the choice the file's own; what is new in it is to be told once it serves.
    fn settle(&mut self, metrics: &Metrics) -> Option<News> {
        let file = file_name(self.path);
        if let Some(why) = &self.conflict
            && self.file.conflict != self.conflict
        {
            metrics.reloaded(self.file.fit.as_ref().map_or("", |fit| fit.name()), "rejected");
            tracing::error!(file, keeps = self.plugin.is_some(), "plugin rejected: {why}");
        }
        self.file.conflict = self.conflict.take();
        let last = std::mem::replace(&mut self.file.serving, self.plugin.clone());
        let plugin = self.plugin.clone()?;
        let same = last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &plugin));
        (!same).then(|| News { file, plugin, swapped: last.is_some() })
    }
}

/// What is to serve.
pub struct Assembly {
    /// All of it.
    pub plugins: Vec<Arc<Plugin>>,
    /// What did not serve before.
    pub news: Vec<News>,
}

/// A plugin that was put to use.
pub struct News {
    file: String,
    plugin: Arc<Plugin>,
    swapped: bool,
}

impl News {
    /// Counts it and logs it.
    pub fn tell(&self, metrics: &Metrics) {
        let Self { file, plugin, swapped } = self;
        plugin.put_to_use();
        let (outcome, what) = if *swapped { ("swapped", "plugin swapped") } else { ("loaded", "plugin loaded") };
        metrics.reloaded(plugin.name(), outcome);
        let (name, version) = (&**plugin.name(), plugin.version());
        let (routes, topics) = (plugin.routes(), &plugin.topics);
        tracing::info!(file, plugin = name, version, ?routes, ?topics, "{what}");
    }
}

/// Two plugins that claim the same, of which the one that does not hold it has to step back: its place, and why.
fn first_conflict(chosen: &[Choice]) -> Option<(usize, String)> {
    for (i, a) in chosen.iter().enumerate() {
        for (j, b) in chosen.iter().enumerate().skip(i + 1) {
            let (Some(x), Some(y)) = (&a.plugin, &b.plugin) else { continue };
            let route = x.routes().iter().copied().find(|route| y.routes().contains(route));
            if x.name() != y.name() && route.is_none() {
                continue;
            }
            let name = if x.name() == y.name() { x.name() } else { "" };
            let (loser, winner) = if b.holds(name, route) && !a.holds(name, route) { (i, y) } else { (j, x) };
            return Some((loser, told(route.filter(|_| name.is_empty()), winner)));
        }
    }
    None
}

fn told(route: Option<u8>, winner: &Plugin) -> String {
    let name = winner.name();
    match route {
        None => format!("another file is plugin `{name}` already: take one of the two away"),
        Some(route) => format!(
            "it claims route 0x{route:02x}, which plugin `{name}` serves: give one of them another in \
             plugins.settings.NAME.routes"
        ),
    }
}

fn wasm_files(directory: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::debug!(directory = %directory.display(), %error, "the plugins directory cannot be read");
            return Vec::new();
        }
    };
    let visible = |path: &PathBuf| !file_name(path).starts_with('.');
    let wasm = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wasm");
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(visible).filter(wasm).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let meta = fs::metadata(path).map_err(|error| format!("it cannot be read: {error}"))?;
    if !meta.is_file() {
        return Err("it is not a file".to_owned());
    }
    if meta.len() > FILE_BYTES {
        return Err(format!("it has {} bytes, and {FILE_BYTES} are the most", meta.len()));
    }
    fs::read(path).map_err(|error| format!("it cannot be read: {error}"))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
