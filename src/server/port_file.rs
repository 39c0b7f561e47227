//! The file that tells other programs where the broker listens.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

/// Bound addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Of the native protocol.
    pub(crate) native: SocketAddr,
    /// Of HTTP.
    pub(crate) http: SocketAddr,
}

impl Addresses {
    /// `{"native": "127.0.0.1:P", "http": "127.0.0.1:Q"}`, to the byte.
    fn to_json(self) -> String {
        format!("{{\"native\": \"{}\", \"http\": \"{}\"}}", self.native, self.http)
    }

    /// Writes the file in one step: who waits for it never reads half of it.
    ///
    /// # Errors
    /// The directory is missing or cannot be written.
    pub(crate) fn write(self, path: &Path) -> io::Result<()> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the port file needs a name"))?;
        let mut draft_name = std::ffi::OsString::from(".");
        draft_name.push(name);
        draft_name.push(format!(".{}", std::process::id()));
        let draft = path.with_file_name(draft_name);
        let written = fs::File::create(&draft)
            .and_then(|mut file| file.write_all(self.to_json().as_bytes()))
            .and_then(|()| fs::rename(&draft, path));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_exactly_the_agreed_content_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports.json");
        fs::write(&path, "old").unwrap();
        let addresses = Addresses {
            native: "127.0.0.1:5001".parse().unwrap(),
            http: "127.0.0.1:5002".parse().unwrap(),
        };
        addresses.write(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            r#"{"native": "127.0.0.1:5001", "http": "127.0.0.1:5002"}"#
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_directory_is_an_error_that_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = Addresses {
            native: "127.0.0.1:1".parse().unwrap(),
            http: "127.0.0.1:2".parse().unwrap(),
        };
        let error = addresses.write(&dir.path().join("no/ports.json")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
