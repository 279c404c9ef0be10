//! What the operator wrote for a plugin.

use serde::{Deserialize, de::DeserializeOwned};

/// What a plugin is configured with. `Config` is the plugin's own: a key that is missing, unknown or of the wrong type is refused, by name,
/// before [`Policy::configure`](crate::Policy::configure) sees it.
///
/// ```
/// use gateway_plugin_sdk::{Policy, Settings, testing::Harness};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     #[serde(default)]
///     most: u32,
/// }
///
/// struct Limited;
///
/// impl Policy for Limited {
///     const NAME: &str = "limited";
///     const ROUTES: &[u8] = &[0x20];
///     type Config = Config;
///
///     fn configure(settings: Settings<Config>) -> Result<Self, String> {
///         if settings.config.most > 100 { Err("config.most: at most 100".to_owned()) } else { Ok(Self) }
///     }
/// }
///
/// assert!(Harness::<Limited>::new(r#"{"config": {"most": 3}}"#).is_ok());
/// let refused = |settings| Harness::<Limited>::new(settings).err().unwrap();
/// assert_eq!(refused(r#"{"config": {"most": 101}}"#), "config.most: at most 100");
/// assert!(refused(r#"{"config": {"least": 3}}"#).starts_with("config.least: unknown field `least`"));
/// ```
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
