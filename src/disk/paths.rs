//! The rule for paths, the same for every disk: relative, plain names with `/` between them. Touches no disk.

use std::io;

/// The names of a path; none for the root `""`.
pub(super) fn names(path: &str) -> io::Result<Vec<&str>> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let plain = |name: &&str| !matches!(*name, "" | "." | "..") && !name.contains('\0');
    let names: Vec<&str> = path.split('/').collect();
    if names.iter().all(plain) {
        Ok(names)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a relative path of plain names",
        ))
    }
}

/// Directory names and last name of a path that is not the root.
pub(super) fn split(path: &str) -> io::Result<(Vec<&str>, &str)> {
    let mut names = names(path)?;
    match names.pop() {
        Some(last) => Ok((names, last)),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the root has no name",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_relative_paths_are_split_into_names() {
        assert_eq!(names("").unwrap(), Vec::<&str>::new());
        assert_eq!(names("journal/0001.log").unwrap(), ["journal", "0001.log"]);
        assert_eq!(split("a/b/c").unwrap(), (vec!["a", "b"], "c"));
    }

    #[test]
    fn paths_that_could_leave_the_root_are_refused() {
        for path in ["/", "/etc", "..", "a/../b", "a//b", "a/", ".", "a/.", "a\0b"] {
            assert_eq!(
                names(path).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{path:?}"
            );
        }
        assert_eq!(split("").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
