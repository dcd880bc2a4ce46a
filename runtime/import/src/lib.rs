//! Tables for `tags_from`, out of what a plant has: lists of tags, and the source text of blocks.
//!
//! ```text
//! tia       tag tables of TIA Portal: XLSX, SDF, pasted text, Openness XML of tag tables and of standard blocks
//! step7     symbol tables of STEP 7: SDF, ASC, SEQ
//! db        the source text of a data block: .db, .scl, .awl, with its types
//! kepware   the tags of a KEPServerEX device, as CSV
//! ignition  tags of Ignition, as JSON
//! history   how the CSV export of a historian is written
//! ```
//!
//! - [`text`]: encodings, lines and cells; [`sheet`]: the rows of an XLSX. - [`tags`]: what is made, and what is left out and why.
//! - [`tia`], [`step7`], [`block`], [`kepware`], [`ignition`]: a format each. - [`history`]: no table, but where its columns are.
//!
//! Invariants: pure, no I/O; every line that is not taken is named with its number and the reason; an address is checked before it is written;
//! what a file makes us hold is bounded, whatever it claims.

pub mod block;
#[doc(hidden)]
pub mod fuzz;
pub mod history;
pub mod ignition;
pub mod kepware;
pub mod sheet;
pub mod step7;
pub mod tags;
pub mod text;
pub mod tia;

pub use tags::Imported;

/// Why a file can't be read at all. What is wrong with one of its lines is in [`Imported::skipped`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("`{0}` is not an encoding; write it as in windows-1250")]
    Encoding(String),
    #[error("this is not an XLSX workbook; save the table as XLSX again")]
    NoWorkbook,
    #[error("this is not an XLSX workbook: it has no list of sheets")]
    NoSheets,
    #[error("the workbook has no sheet")]
    Empty,
    #[error("the workbook is damaged: {0}")]
    Damaged(String),
    #[error("the workbook holds more than {0} MiB of cells; export the tag table alone")]
    TooLarge(usize),
}
