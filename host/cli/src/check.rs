//! The command `gateway check`: the configuration, the plugins, the machine and Redis.

use crate::arguments::{CheckFormat, Examination};
use gateway::{
    app,
    config::Config,
    finding::{Finding, Severity},
    reload::catalog::Report,
};
use std::io::{self, Write};

/// Reports everything that is wrong. Returns whether the check has passed.
///
/// # Errors
/// Returns an error if the check itself cannot be done.
pub(crate) fn check(config: &Config, how: &Examination, out: &mut impl Write) -> anyhow::Result<bool> {
    let mut findings = Vec::new();
    match app::check_certificate(config) {
        Ok(warning) => findings.extend(warning.map(|text| named(Severity::Warning, &text))),
        Err(error) => findings.push(named(Severity::Error, &error.to_string())),
    }
    if let Err(error) = app::check_keys(config) {
        findings.push(named(Severity::Error, &error));
    }
    if let Err(error) = app::check_state(config) {
        findings.push(Finding::error("plugins.state_file", format!("{error:#}")));
    }
    findings.extend(app::examine(config, how.offline)?);
    let files = app::check(config)?;
    let plugins: Vec<_> = files.iter().filter_map(|file| file.serving.as_deref()?.split(' ').next()).collect();
    for name in config.required.iter().filter(|name| !plugins.contains(&name.as_str())) {
        findings.push(Finding::error("plugins.required", format!("no file has the plugin {name}")));
    }
    // The plugin of a file that cannot be loaded is not known.
    if files.iter().all(|file| file.error.is_none()) {
        for name in config.configured_plugins().filter(|name| !plugins.contains(name)) {
            findings.push(Finding::warning("plugins.settings", format!("no file has the plugin {name}")));
        }
    }
    let is_bad = |finding: &Finding| how.strict || finding.severity == Severity::Error;
    let passed = !findings.iter().any(is_bad) && files.iter().all(|file| file.error.is_none());
    match how.format {
        CheckFormat::Text => text(&findings, &files, out)?,
        CheckFormat::Json => json(passed, &findings, &files, out)?,
    }
    Ok(passed)
}

/// Returns the finding of a text that begins with its place.
fn named(severity: Severity, text: &str) -> Finding {
    let (place, text) = text.split_once(": ").unwrap_or(("", text));
    Finding { severity, place: place.to_owned(), text: text.to_owned() }
}

fn text(findings: &[Finding], files: &[Report], out: &mut impl Write) -> io::Result<()> {
    for Finding { severity, place, text } in findings {
        let severity = if *severity == Severity::Warning { "warning: " } else { "" };
        writeln!(out, "{severity}{place}: {text}")?;
    }
    for Report { file, error, serving, .. } in files {
        match (error, serving) {
            (Some(error), _) => writeln!(out, "{file}: {error}")?,
            (None, serving) => writeln!(out, "{file}: ok, {}", serving.as_deref().unwrap_or_default())?,
        }
    }
    Ok(())
}

fn json(passed: bool, findings: &[Finding], files: &[Report], out: &mut impl Write) -> io::Result<()> {
    let plugin = |Report { file, error, serving, .. }: &Report| match error {
        Some(error) => serde_json::json!({ "file": file, "error": error }),
        None => serde_json::json!({ "file": file, "serving": serving }),
    };
    let plugins: Vec<_> = files.iter().map(plugin).collect();
    writeln!(out, "{}", serde_json::json!({ "passed": passed, "findings": findings, "plugins": plugins }))
}
