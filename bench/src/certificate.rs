//! The certificate of the gateway over TLS, which openssl makes anew for each run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::output::output;

/// The content of the certificate, as a configuration of openssl. The client trusts this very certificate, so there is
/// no authority above it.
const CONFIGURATION: &str = "\
[req]
distinguished_name = name
x509_extensions = server
prompt = no
[name]
CN = the gateway's benchmark
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = IP:127.0.0.1
";

/// The arguments of openssl: ECDSA on the curve P-256, which is the usual kind of certificate.
const ARGUMENTS: &str = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -config openssl.cnf \
                         -keyout key.pem -out cert.pem";

/// The file of the certificate in a folder.
pub(crate) fn cert(folder: &Path) -> PathBuf {
    folder.join("cert.pem")
}

/// The file of the key in a folder.
pub(crate) fn key(folder: &Path) -> PathBuf {
    folder.join("key.pem")
}

/// Makes a certificate for 127.0.0.1 and its key in a folder.
pub(crate) fn make(folder: &Path) -> anyhow::Result<()> {
    fs::write(folder.join("openssl.cnf"), CONFIGURATION)?;
    output(Command::new("openssl").args(ARGUMENTS.split(' ')).current_dir(folder))
        .context("openssl makes no certificate; `make openssl` installs it")?;
    Ok(())
}
