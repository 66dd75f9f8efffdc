//! Whose tokens a server believes, as the configuration says: reads the files of keys and makes what
//! the doors judge by. How tokens are judged is the doors'.

use standpipe_doors::{Authority, Issuer, Key};

use crate::config::{Auth, KeyEntry};
use crate::exit::{Failure, Result};

/// Can the settings be meant? No file is read. The failure names the setting.
pub(crate) fn check(auth: &Auth) -> std::result::Result<(), (String, String)> {
    if !auth.firebase_project.is_empty() {
        let url = Some(auth.firebase_keys_url.as_str()).filter(|url| !url.is_empty());
        Issuer::firebase(&auth.firebase_project, url).map_err(|text| {
            let name = if text.starts_with(&format!("{:?} is no project", auth.firebase_project)) {
                "auth.firebase_project"
            } else {
                "auth.firebase_keys_url"
            };
            (name.to_owned(), text)
        })?;
    }
    for (index, entry) in auth.key.iter().enumerate() {
        check_entry(entry).map_err(|(key, text)| (format!("auth.key.{index:03}.{key}"), text))?;
    }
    Ok(())
}

fn check_entry(entry: &KeyEntry) -> std::result::Result<(), (&'static str, String)> {
    match (&entry.file, &entry.url) {
        (Some(_), None) => Ok(()),
        (None, Some(url)) => {
            let Some(algorithm) = entry.algorithm else {
                return Err(("url", "name the algorithm too: RS256, ES256 or EdDSA".into()));
            };
            if entry.issuer.is_none() || entry.audience.is_none() {
                let text = "name the issuer and the audience too: whoever has an account there has a token of it";
                return Err(("url", text.into()));
            }
            if entry.kid.is_some() {
                return Err(("kid", "a key set has ids of its own: leave kid out".into()));
            }
            Issuer::published(url, algorithm).map(drop).map_err(|text| ("url", text))
        }
        (Some(_), Some(_)) => Err(("url", "name a file or a url, not both".into())),
        (None, None) => {
            let first = [("kid", entry.kid.is_some()), ("issuer", entry.issuer.is_some())];
            let key = first.into_iter().find_map(|(key, is)| is.then_some(key)).unwrap_or("administrators");
            Err((key, "name the key: file = \"public.pem\", or url of a key set".into()))
        }
    }
}

/// What the settings say, with the keys in their files.
///
/// # Errors
/// A file can't be read or holds no such key.
pub(crate) fn read(auth: &Auth) -> Result<Authority> {
    let mut issuers = auth.key.iter().map(issuer).collect::<Result<Vec<_>>>()?;
    if !auth.firebase_project.is_empty() {
        let url = Some(auth.firebase_keys_url.as_str()).filter(|url| !url.is_empty());
        issuers.push(Issuer::firebase(&auth.firebase_project, url).map_err(Failure::usage)?);
    }
    Ok(Authority { issuers, admin_claim: auth.admin_claim.clone(), ..Authority::default() })
}

fn issuer(entry: &KeyEntry) -> Result<Issuer> {
    let issuer = match (&entry.file, &entry.url, entry.algorithm) {
        (Some(file), ..) => {
            let bytes = std::fs::read(file).map_err(|error| Failure::file(file, &error))?;
            let wrong = |text: String| {
                Failure::usage(format!("{}: {text}", file.display()))
                    .help("standpipe token keygen makes keys; docs/security.md says which are good")
            };
            let key = Key::from_file(&bytes).map_err(wrong)?;
            if let Some(algorithm) = entry.algorithm.filter(|algorithm| *algorithm != key.algorithm()) {
                return Err(wrong(format!("this is a key for {}, not for {algorithm}", key.algorithm())));
            }
            Issuer::own(key, entry.kid.clone())
        }
        (None, Some(url), Some(algorithm)) => Issuer::published(url, algorithm).map_err(Failure::usage)?,
        _ => return Err(Failure::usage("an [[auth.key]] has neither file nor url")),
    };
    Ok(issuer.issuer(entry.issuer.clone()).audience(entry.audience.clone()).administrators(entry.administrators))
}
