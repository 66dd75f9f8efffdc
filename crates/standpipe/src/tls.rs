//! The certificates of a server: where they are found by the name of the host, reading them at start and
//! again when their files change, and making one that is signed by itself. How TLS is spoken is the
//! serving core's.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use standpipe_serve::{Tls, TlsFiles};

use crate::config;
use crate::exit::{Failure, Result};

/// Where certbot keeps its certificates.
const LETS_ENCRYPT: &str = "/etc/letsencrypt/live";

/// The certificates in force, and the files they come from.
#[derive(Debug)]
pub(crate) struct Certificates {
    tls: Arc<Tls>,
    places: Places,
    /// What was read last, also where it was refused: the same is not told twice.
    read: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Places {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    clients_optional: bool,
}

impl Certificates {
    /// Finds and reads the certificates that the settings mean; `None` where TLS is off.
    ///
    /// # Errors
    /// There is none, or it can't be used; the failure says where it was looked for.
    pub(crate) fn open(settings: &config::Tls, data: &Path) -> Result<Option<Self>> {
        if !settings.is_on() {
            return Ok(None);
        }
        let (cert, key) = find(settings, data)?;
        let client_ca = Some(settings.client_ca.clone()).filter(|path| !path.as_os_str().is_empty());
        let places = Places { cert, key, client_ca, clients_optional: settings.client_optional };
        let (files, read) = places.read()?;
        let tls = Tls::new(&files).map_err(|error| places.wrong(&error.to_string()))?;
        Ok(Some(Self { tls, places, read }))
    }

    /// What listeners are given.
    pub(crate) fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// The files whose change matters.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let Places { cert, key, client_ca, .. } = &self.places;
        [Some(cert), Some(key), client_ca.as_ref()].into_iter().flatten().cloned().collect()
    }

    /// Reads the files again and puts what they hold in force; what can't be used is told once, and the old
    /// certificates stay.
    pub(crate) fn reload(&mut self) {
        let outcome = self.places.read().and_then(|(files, read)| {
            if read == self.read {
                return Ok(false);
            }
            self.read = read;
            self.tls.reload(&files).map_err(|error| self.places.wrong(&error.to_string()))?;
            Ok(true)
        });
        match outcome {
            Ok(true) => tracing::info!(cert = %self.places.cert.display(), "certificates read again, in force now"),
            Ok(false) => {}
            Err(failure) => tracing::warn!("the new certificates are refused, the old ones stay in force\n{failure}"),
        }
    }
}

impl Places {
    /// The files, and their bytes to compare by.
    fn read(&self) -> Result<(TlsFiles, Vec<Vec<u8>>)> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| Failure::file(path, &error));
        let (certificates, key) = (read(&self.cert)?, read(&self.key)?);
        let client_authorities = self.client_ca.as_ref().map(read).transpose()?;
        let mut all = vec![certificates.clone(), key.clone()];
        all.extend(client_authorities.clone());
        Ok((TlsFiles { certificates, key, client_authorities, clients_optional: self.clients_optional }, all))
    }

    fn wrong(&self, text: &str) -> Failure {
        Failure::usage(format!("{} and {}: {text}", self.cert.display(), self.key.display())).help(
            "both are PEM: the certificate with those that lead to its root, and its private key without password",
        )
    }
}

/// Certificate and key that the settings mean.
fn find(settings: &config::Tls, data: &Path) -> Result<(PathBuf, PathBuf)> {
    if !settings.cert.as_os_str().is_empty() {
        return Ok((settings.cert.clone(), settings.key.clone()));
    }
    let name = &settings.name;
    if !is_host_name(name) && !name.is_empty() {
        return Err(Failure::usage(format!("--tls {name}: this is no host name"))
            .help("use the name that clients connect to, as in --tls db.example.com"));
    }
    let own = data.join("tls");
    let lets_encrypt = Path::new(LETS_ENCRYPT).join(name);
    let mut places = vec![
        (own.join(format!("{name}.crt")), own.join(format!("{name}.key"))),
        (lets_encrypt.join("fullchain.pem"), lets_encrypt.join("privkey.pem")),
    ];
    if name.is_empty() {
        places.clear();
    }
    if let Some(found) = places.iter().find(|(cert, _)| cert.exists()) {
        return Ok(found.clone());
    }
    if settings.self_signed {
        return self_signed(name, &own);
    }
    let looked = places.iter().map(|(cert, key)| format!("  {} and {}", cert.display(), key.display()));
    Err(Failure::usage(format!("there is no certificate for {name}")).help(format!(
        "put one where it is looked for:\n{}\nor name its files in the configuration: [tls] cert = …, key = …\n\
         or have one made for tests, which clients must be told to trust: --tls-self-signed",
        looked.collect::<Vec<_>>().join("\n")
    )))
}

/// Letters, digits, hyphens and dots, as in a host name or an address; nothing that leads elsewhere as a path.
fn is_host_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_');
    name.len() <= 253 && name.chars().all(plain) && !name.starts_with('.') && !name.contains("..")
}

/// The certificate made for this name earlier, or one made now: for the name, and for this machine's own.
fn self_signed(name: &str, dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let stem = if name.is_empty() { "self-signed".to_owned() } else { format!("self-signed-{name}") };
    let (cert, key) = (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key")));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !name.is_empty() && !names.iter().any(|have| have == name) {
        names.insert(0, name.to_owned());
    }
    let failed = |error: rcgen::Error| Failure::failed(format!("can't make a certificate: {error}"));
    let made = rcgen::generate_simple_self_signed(names).map_err(failed)?;
    std::fs::create_dir_all(dir).map_err(|error| Failure::file(dir, &error))?;
    crate::client::token::write(&key, made.signing_key.serialize_pem().trim_end())
        .map_err(|error| Failure::file(&key, &error))?;
    std::fs::write(&cert, made.cert.pem()).map_err(|error| Failure::file(&cert, &error))?;
    tracing::info!(cert = %cert.display(), "made a certificate; clients must be told to trust it");
    Ok((cert, key))
}

/// The `https` address to show: the name where there is one, and the port where it is not the usual one.
pub(crate) fn url(name: &str, at: &str) -> String {
    let (host, port) = at.rsplit_once(':').unwrap_or((at, "443"));
    let host = match (name, host.trim_matches(['[', ']']).parse::<IpAddr>()) {
        ("", Ok(address)) if address.is_unspecified() => "localhost",
        ("", _) => host,
        (name, _) => name,
    };
    if port == "443" { format!("https://{host}") } else { format!("https://{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str) -> config::Tls {
        config::Tls {
            cert: PathBuf::new(),
            client_ca: PathBuf::new(),
            client_optional: false,
            key: PathBuf::new(),
            listen: "127.0.0.1:0".into(),
            name: name.into(),
            self_signed: false,
        }
    }

    #[test]
    fn certificates_are_found_by_the_name_of_the_host() {
        let data = tempfile::tempdir().unwrap();
        let open = |settings: &config::Tls| Certificates::open(settings, data.path());
        assert!(open(&settings("")).unwrap().is_none(), "off");
        let told = open(&settings("db.example.com")).unwrap_err().to_string();
        for part in
            ["db.example.com.crt", "/etc/letsencrypt/live/db.example.com/fullchain.pem", "--tls-self-signed", "[tls]"]
        {
            assert!(told.contains(part), "{told} lacks {part}");
        }
        for bad in ["../../etc/passwd", "a/b", ".hidden", "a..b", "a b"] {
            assert!(open(&settings(bad)).unwrap_err().to_string().contains("no host name"), "{bad}");
        }
        let made = config::Tls { self_signed: true, ..settings("db.example.com") };
        let paths = open(&made).unwrap().unwrap().paths();
        assert_eq!(open(&made).unwrap().unwrap().paths(), paths, "made once");
        // A real one goes before one that was made.
        std::fs::copy(&paths[0], data.path().join("tls/db.example.com.crt")).unwrap();
        assert!(open(&settings("db.example.com")).unwrap_err().to_string().contains("db.example.com.key"));
        std::fs::copy(&paths[1], data.path().join("tls/db.example.com.key")).unwrap();
        assert!(open(&settings("db.example.com")).unwrap().is_some());
    }

    #[test]
    fn addresses_are_shown_as_clients_type_them() {
        let check = |name, at, expected: &str| assert_eq!(url(name, at), expected);
        check("db.example.com", "0.0.0.0:443", "https://db.example.com");
        check("db.example.com", "0.0.0.0:8443", "https://db.example.com:8443");
        check("", "0.0.0.0:8443", "https://localhost:8443");
        check("", "127.0.0.1:8443", "https://127.0.0.1:8443");
        check("", "[::1]:8443", "https://[::1]:8443");
    }
}
