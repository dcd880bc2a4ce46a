//! Rows of PostgreSQL without COPY: the same SELECT, asked for in the extended protocol, without a name and without parameters. Each value comes in the binary
//! form that COPY has, so what is made of it is the same to the last digit.

use crate::postgres::{Postgres, Rows, trouble};
use crate::statement::{Column, Page, Query};
use crate::taking::{Taking, Trouble};
use futures_util::{FutureExt, StreamExt};
use std::error::Error;
use std::pin::pin;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql, Type};

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

impl Postgres {
    /// Reads a page without COPY. The rows are taken as they come: neither they nor the server's answer is held whole.
    pub(crate) async fn select(&self, page: &Page, columns: &[Column], query: &Query, taking: &mut Taking<'_>) -> Result<u64, Trouble> {
        let none: [(&(dyn ToSql + Sync), Type); 0] = [];
        let mut found = pin!(self.within(self.client.query_typed_raw(&page.sql, none)).await?);
        let mut rows = Rows::new(columns, query, taking);
        loop {
            let next = match found.next().now_or_never() {
                Some(row) => row.transpose().map_err(|error| trouble(&error))?,
                None => self.within(async { found.next().await.transpose() }).await?,
            };
            let Some(row) = next else { return Ok(rows.count) };
            rows.row(&row, taking).map_err(|why| Trouble::Query(why.into()))?;
            if taking.is_full() {
                taking.flush().await?;
            }
        }
    }
}
