//! The cost of one call of a plugin, without a gateway around it.

use std::fs;
use std::time::Instant;

use anyhow::{anyhow, bail};
use gateway::config::Config;
use gateway::plugin::trial::Trial;
use gateway::plugin::{Compiler, Described, Keeper, Packet, SessionId, Standalone};
use gateway_bench::chat_request;

use crate::contender::{Contender, Folders};

/// The number of calls in a batch, which is timed as a whole.
const CALLS: u32 = 1000;

/// The number of batches. It is odd, so that the median is one of them.
const BATCHES: usize = 201;

/// Measures the nanoseconds of a chat request of a bound session in the plugin `chat`: the median of many batches.
pub(crate) fn measure(folders: &Folders) -> anyhow::Result<f64> {
    let mut trial = trial(folders)?;
    let payload = chat_request();
    let mut batches: Vec<f64> = (0..BATCHES).map(|_| batch(&mut trial, &payload)).collect::<anyhow::Result<_>>()?;
    batches.sort_by(f64::total_cmp);
    Ok(batches[BATCHES / 2])
}

/// Starts the plugin with the settings that the gateway gives it.
fn trial(folders: &Folders) -> anyhow::Result<Trial> {
    let file = folders.bench.join("plugin-call.yaml");
    fs::write(&file, folders.config(Contender::Gateway, 1, 2, 3))?;
    let config = Config::read(&file)?;
    let compiler = Compiler::new().map_err(|error| anyhow!("this machine cannot run WebAssembly: {error:#}"))?;
    let described =
        Described::load(&compiler, &fs::read(folders.plugins().join("chat.wasm"))?, config.largest_memory())?;
    let settings = config.plugin(&described.name, &described.routes);
    let mut trial = Trial::new(&described, settings.limits, Standalone.kept(&described.name))?;
    trial.configure(&settings.json)?.map_err(|refusal| anyhow!(refusal))?;
    Ok(trial)
}

/// Times a batch, and returns the nanoseconds of one call.
fn batch(trial: &mut Trial, payload: &[u8]) -> anyhow::Result<f64> {
    // The tag says that the session already listens to its user's topic.
    let session = SessionId { high: 1, low: 2 };
    let packet = || Packet { seq: 1, route: 1, flags: 0, session, user: Some(1), tag: 1, now: 0 };
    let began = Instant::now();
    for _ in 0..CALLS {
        if let Err(rejection) = trial.on_packet(packet(), payload)? {
            bail!("the plugin chat rejects the request: {}", rejection.message);
        }
    }
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS))
}
