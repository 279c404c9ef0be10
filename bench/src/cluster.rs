//! A Redis Cluster of a measurement.

use crate::bus::{Bus, Redis, SLOTS, wait};
use crate::contender::Folders;
use crate::server::{Server, free_port};

/// The number of masters.
const MASTERS: u16 = 3;

/// Starts a Cluster of masters without replicas.
pub(crate) fn start(folders: &Folders) -> anyhow::Result<(Vec<Server>, Bus)> {
    let (mut servers, mut ports) = (Vec::new(), Vec::new());
    for _ in 0..MASTERS {
        let bus_port = free_port()?;
        let server = Server::redis_with(folders, &format!("--cluster-enabled yes --cluster-port {bus_port}"))?;
        ports.push((server.port, bus_port));
        servers.push(server);
    }
    let mut first = Redis::connect(ports[0].0)?;
    for (number, (port, bus_port)) in (0..MASTERS).zip(&ports) {
        let slot = |number| u32::from(SLOTS) * number / u32::from(MASTERS);
        let (from, to) = (slot(u32::from(number)), slot(u32::from(number) + 1) - 1);
        let mut master = Redis::connect(*port)?;
        master.ok(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1))?;
        master.ok(&format!("CLUSTER ADDSLOTSRANGE {from} {to}"))?;
        first.ok(&format!("CLUSTER MEET 127.0.0.1 {port} {bus_port}"))?;
    }
    for (port, _) in &ports {
        let mut master = Redis::connect(*port)?;
        wait("the Cluster is not whole", || {
            let info = master.bulk("CLUSTER INFO")?;
            Ok(info.contains("cluster_state:ok") && info.contains(&format!("cluster_known_nodes:{MASTERS}")))
        })?;
    }
    Ok((servers, Bus::Cluster(ports.into_iter().map(|(port, _)| port).collect())))
}
