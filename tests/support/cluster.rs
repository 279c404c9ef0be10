//! A Redis Cluster with three masters, and perhaps a replica of the first one.

use crate::{Certificates, Redis, ReservedPort, eventually, in_time};
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::sync::mpsc;

/// Running servers, which are killed when this value is dropped.
pub struct Cluster {
    /// The servers. The first three are the masters at the start, each of a third of the slots.
    pub servers: Vec<Redis>,
    _bus_ports: Vec<ReservedPort>,
    /// The ports for TLS, or nothing if the servers have none.
    tls_ports: Vec<ReservedPort>,
}

/// A backend's subscription to a topic of the Cluster.
pub struct ShardSubscription {
    pushes: mpsc::UnboundedReceiver<PushInfo>,
    _connection: redis::aio::MultiplexedConnection,
}

impl Cluster {
    /// Starts three masters and this number of replicas of the first one, and waits until they serve all slots.
    pub async fn start(replicas: usize) -> Self {
        Self::start_with(replicas, None).await
    }

    /// Starts three masters that clients reach over TLS as `localhost`. They talk with each other over TLS as well. The test
    /// itself uses their second ports, without TLS.
    pub async fn start_over_tls(certificates: &Certificates) -> Self {
        Self::start_with(0, Some(certificates)).await
    }

    async fn start_with(replicas: usize, certificates: Option<&Certificates>) -> Self {
        let mut cluster = Self { servers: Vec::new(), _bus_ports: Vec::new(), tls_ports: Vec::new() };
        for _ in 0..3 + replicas {
            let bus = ReservedPort::reserve();
            let port = bus.number().to_string();
            let own = ["--cluster-enabled", "yes", "--cluster-port", &port, "--cluster-node-timeout", "2000"];
            let mut arguments = own.map(str::to_owned).to_vec();
            if let Some(certificates) = certificates {
                let tls = ReservedPort::reserve();
                let files = [certificates.server(), certificates.server_key(), certificates.authority()];
                let [certificate, key, authority] = files.map(|file| file.to_str().unwrap().to_owned());
                arguments.extend([
                    "--tls-port".to_owned(),
                    tls.number().to_string(),
                    "--tls-cert-file".to_owned(),
                    certificate,
                ]);
                arguments.extend(["--tls-key-file".to_owned(), key, "--tls-ca-cert-file".to_owned(), authority]);
                let rest = "--tls-auth-clients no --tls-cluster yes --cluster-announce-hostname localhost \
                            --cluster-preferred-endpoint-type hostname";
                arguments.extend(rest.split_whitespace().map(str::to_owned));
                cluster.tls_ports.push(tls);
            }
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            cluster.servers.push(Redis::start_with_arguments(&arguments).await);
            cluster._bus_ports.push(bus);
        }
        for (i, server) in cluster.servers.iter().enumerate() {
            server.run(redis::cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(i + 1)).await;
            if let Some((first, last)) = [(0, 5460), (5461, 10922), (10923, 16383)].get(i) {
                server.run(redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(first).arg(last)).await;
            }
            let bus = cluster._bus_ports[i].number();
            let mut meet = redis::cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(server.port).arg(bus);
            cluster.servers[0].run(&meet).await;
        }
        cluster.is_whole().await;
        let first = cluster.id(0).await;
        for replica in &cluster.servers[3..] {
            replica.run(redis::cmd("CLUSTER").arg("REPLICATE").arg(&first)).await;
            eventually("a replica that is connected to its master", || async {
                let mut connection = replica.connection().await;
                let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await.ok()?;
                info.contains("master_link_status:up").then_some(())
            })
            .await;
        }
        cluster
    }

    /// Waits until every server knows all the others and a master for every slot.
    async fn is_whole(&self) {
        let all = format!("cluster_known_nodes:{}", self.servers.len());
        for server in &self.servers {
            eventually("the Cluster is whole", || async {
                let mut connection = server.connection().await;
                let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.ok()?;
                (info.contains("cluster_state:ok") && info.contains(&all)).then_some(())
            })
            .await;
        }
    }

    /// Returns the settings of `redis` in gateway.yaml, with more keys of the section.
    #[must_use]
    pub fn yaml(&self, keys: &str) -> String {
        let addrs: Vec<_> = match &self.tls_ports[..] {
            [] => self.servers.iter().map(|server| format!("\"127.0.0.1:{}\"", server.port)).collect(),
            ports => ports.iter().map(|port| format!("\"rediss://localhost:{}\"", port.number())).collect(),
        };
        format!("redis: {{ cluster: {{ addrs: [{}] }}{keys} }}", addrs.join(", "))
    }

    /// Returns the id of a server.
    async fn id(&self, server: usize) -> String {
        let mut connection = self.servers[server].connection().await;
        redis::cmd("CLUSTER").arg("MYID").query_async(&mut connection).await.unwrap()
    }

    /// Returns the slot of a topic.
    pub async fn slot(&self, topic: &str) -> u16 {
        let mut connection = self.servers[1].connection().await;
        redis::cmd("CLUSTER").arg("KEYSLOT").arg(topic).query_async(&mut connection).await.unwrap()
    }

    /// Returns the index of the master that serves a slot at the start.
    #[must_use]
    pub fn first_owner(slot: u16) -> usize {
        usize::from(slot > 5460) + usize::from(slot > 10922)
    }

    /// Moves a slot with its keys from one master to another, as `redis-cli --cluster reshard` does.
    pub async fn migrate(&self, slot: u16, from: usize, to: usize) {
        let (old, new) = (self.id(from).await, self.id(to).await);
        let set = |server: usize, what: &str, id: &str| {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SETSLOT").arg(slot).arg(what).arg(id);
            async move { self.servers[server].run(&command).await }
        };
        set(to, "IMPORTING", &old).await;
        set(from, "MIGRATING", &new).await;
        let mut keys = redis::cmd("CLUSTER");
        keys.arg("GETKEYSINSLOT").arg(slot).arg(100);
        let mut connection = self.servers[from].connection().await;
        while let keys = keys.query_async::<Vec<String>>(&mut connection).await.unwrap()
            && !keys.is_empty()
        {
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(self.servers[to].port).arg("").arg(0).arg(5000).arg("KEYS").arg(keys);
            self.servers[from].run(&migrate).await;
        }
        set(to, "NODE", &new).await;
        set(from, "NODE", &new).await;
    }

    /// Publishes as a backend does, at the server that is responsible. Returns how many subscribers there received the
    /// message, or `None` if no server is responsible.
    pub async fn publish(&self, topic: &str, message: &[u8]) -> Option<usize> {
        for server in &self.servers {
            let Some(mut connection) = server.connection_now().await else { continue };
            let mut publish = redis::cmd("SPUBLISH");
            publish.arg(topic).arg(message);
            if let Ok(receivers) = publish.query_async(&mut connection).await {
                return Some(receivers);
            }
        }
        None
    }

    /// Waits until the topic has a subscriber at its server.
    pub async fn is_heard(&self, topic: &str) {
        eventually(&format!("a subscriber of {topic}"), || async {
            for server in &self.servers {
                let Some(mut connection) = server.connection_now().await else { continue };
                let mut count = redis::cmd("PUBSUB");
                count.arg("SHARDNUMSUB").arg(topic);
                if matches!(count.query_async::<(String, usize)>(&mut connection).await, Ok((_, 1..))) {
                    return Some(());
                }
            }
            None
        })
        .await;
    }

    /// Subscribes to a topic as a backend does.
    pub async fn subscribe(&self, topic: &str) -> ShardSubscription {
        eventually("a subscription at the Cluster", || async {
            for server in &self.servers {
                let (sender, pushes) = mpsc::unbounded_channel();
                let client = redis::Client::open(format!("redis://127.0.0.1:{}/?protocol=resp3", server.port)).unwrap();
                let config = AsyncConnectionConfig::new().set_push_sender(sender);
                let Ok(mut connection) = client.get_multiplexed_async_connection_with_config(&config).await else {
                    continue;
                };
                if redis::cmd("SSUBSCRIBE").arg(topic).exec_async(&mut connection).await.is_ok() {
                    return Some(ShardSubscription { pushes, _connection: connection });
                }
            }
            None
        })
        .await
    }
}

impl ShardSubscription {
    /// Waits for the next message.
    pub async fn next(&mut self) -> Vec<u8> {
        loop {
            let push = in_time("a message of the Cluster", self.pushes.recv()).await.expect("the connection is open");
            if push.kind == PushKind::SMessage
                && let [_, Value::BulkString(body)] = &push.data[..]
            {
                return body.clone();
            }
        }
    }
}
