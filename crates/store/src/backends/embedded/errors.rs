//! What the engine's errors mean to a caller of the store.

use std::path::Path;

use crate::Error;

/// An error while reading or writing an open database.
pub(super) fn corrupt(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => Error::Unavailable(format!("reading or writing the database: {error}")),
        redb::Error::PreviousIo => {
            Error::Unavailable("an earlier input or output error closed the database".to_string())
        }
        redb::Error::DatabaseClosed => Error::Closed,
        error => Error::Corrupt(error.to_string()),
    }
}

/// An error while opening a database.
pub(super) fn opening(path: &Path, error: redb::DatabaseError) -> Error {
    let path = path.display();
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            Error::Locked(format!("{path} is open in another process; stop that one first"))
        }
        redb::DatabaseError::UpgradeRequired(version) => {
            Error::Corrupt(format!("{path} has file format {version} of an older release and must be migrated"))
        }
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            Error::Corrupt(format!("{path} is not a store of orkd ({error}); restore it from a backup"))
        }
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) => {
            Error::Unavailable(format!("cannot open {path}: {error}"))
        }
        error => Error::Corrupt(format!("{path} cannot be opened ({error}); restore it from a backup")),
    }
}
