//! What the operator wrote for a plugin.

use serde::{Deserialize, de::DeserializeOwned};

/// What a plugin is configured with.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings<Config> {
    /// What stands under `plugins.settings.NAME.config` in gateway.yaml.
    pub config: Config,
    /// The ids under `games`.
    #[serde(default)]
    pub games: Vec<String>,
    /// The routes that the plugin serves: [`Policy::ROUTES`](crate::Policy::ROUTES), unless the operator says otherwise.
    #[serde(default)]
    pub routes: Vec<u8>,
}

/// For a plugin without settings: every key is an error.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// Reads the JSON that `configure` gets. An error names the key.
pub(crate) fn parse<Config: DeserializeOwned>(json: &str) -> Result<Settings<Config>, String> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        format!("{path}: {}", error.into_inner())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[allow(dead_code, reason = "only its type matters here")]
        most: u32,
    }

    #[test]
    fn an_error_names_the_key() {
        let refused = |json| parse::<Config>(json).unwrap_err();
        assert!(refused(r#"{"config":{"most":"x"}}"#).starts_with("config.most: invalid type"));
        assert!(refused(r#"{"config":{"most":1,"mots":2}}"#).contains("unknown field `mots`"));
        let none = parse::<NoConfig>(r#"{"config":{"most":1}}"#).unwrap_err();
        assert!(none.contains("unknown field `most`"), "{none}");
    }
}
