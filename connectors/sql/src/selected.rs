//! Rows of PostgreSQL without COPY: the same SELECT, asked for in the extended protocol. Each value comes in the binary form that COPY has, so what is
//! made of it is the same to the last digit. No I/O.

use std::error::Error;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

/// The fields of a row in the binary form, whichever way it came.
pub(crate) trait Fields {
    fn count(&self) -> usize;

    /// A field's bytes; `None`: null.
    fn get(&self, index: usize) -> Option<&[u8]>;
}

impl Fields for crate::copied::Fields<'_> {
    fn count(&self) -> usize {
        self.len()
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        crate::copied::Fields::get(self, index)
    }
}

impl Fields for Row {
    fn count(&self) -> usize {
        self.len()
    }

    fn get(&self, index: usize) -> Option<&[u8]> {
        self.try_get::<_, Option<Raw<'_>>>(index).ok().flatten().map(|raw| raw.0)
    }
}

/// A value of any type, as it stands in the message.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Whether a refusal of COPY may be of COPY alone: not supported, not understood, not allowed, or an error of the server's or pooler's own.
pub(crate) fn may_be_of_copy_alone(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|server| {
        let code = server.code().code();
        matches!(code, "42601" | "42501" | "08P01") || code.starts_with("0A") || code.starts_with("XX")
    })
}
