//! Rules over a value in JSON: what leaves keeps its text, digit by digit.

use super::{Changer, Fields, Rule};
use millrace_config::Reason;
use millrace_schemas::scan::{Next, ScanError, Scanner};

/// Appends what leaves of a value. Returns how many fields were to be changed and are not there.
///
/// Errors: it is no JSON object, so that nothing of it may leave.
pub fn apply(fields: &Fields, changer: &Changer<'_>, value: &[u8], out: &mut Vec<u8>) -> Result<u64, Reason> {
    let mut work = Work { changer, missed: 0 };
    let mut rewrite = || {
        let mut scan = Scanner::new(value)?;
        if scan.peek()? != Next::Object {
            return Err(scan.error("no object, so that its fields cannot be told apart"));
        }
        work.object(fields, &mut scan, out)?;
        scan.end()
    };
    rewrite().map_err(|error| format!("its fields cannot be told apart: {error}"))?;
    Ok(work.missed)
}

struct Work<'w, 'k> {
    changer: &'w Changer<'k>,
    missed: u64,
}

impl Work<'_, '_> {
    /// Appends a value, or not (`false`).
    fn value(&mut self, rule: &Rule, scan: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<bool, ScanError> {
        match rule {
            Rule::Leave => out.extend_from_slice(scan.skip()?.as_bytes()),
            Rule::Stay => {
                scan.skip()?;
                return Ok(false);
            }
            Rule::Change(how, path) => {
                let mut plain = Vec::new();
                match scan.peek()? {
                    Next::Null => {
                        scan.null()?;
                        out.extend_from_slice(b"null");
                        return Ok(true);
                    }
                    Next::Text => scan.text()?.push_to(&mut plain),
                    _ => plain.extend_from_slice(scan.skip()?.as_bytes()),
                }
                out.push(b'"');
                self.changer.change(*how, path, &plain, out);
                out.push(b'"');
            }
            Rule::Fields(fields) => match scan.peek()? {
                Next::Object => self.object(fields, scan, out)?,
                Next::Array => {
                    scan.open()?;
                    out.push(b'[');
                    let (mut is_first, mut is_first_out) = (true, true);
                    while scan.next_item(std::mem::take(&mut is_first))? {
                        let before = out.len();
                        if !is_first_out {
                            out.push(b',');
                        }
                        match self.value(rule, scan, out)? {
                            true => is_first_out = false,
                            false => out.truncate(before),
                        }
                    }
                    out.push(b']');
                }
                Next::Null => {
                    scan.null()?;
                    out.extend_from_slice(b"null");
                    self.missed += fields.changes();
                }
                // Something else than was expected: nobody said that it may leave.
                _ => {
                    scan.skip()?;
                    self.missed += fields.changes();
                    return Ok(false);
                }
            },
        }
        Ok(true)
    }

    fn object(&mut self, fields: &Fields, scan: &mut Scanner<'_>, out: &mut Vec<u8>) -> Result<(), ScanError> {
        scan.open()?;
        out.push(b'{');
        let mut seen = vec![false; fields.named.len()];
        let (mut is_first, mut is_first_out) = (true, true);
        while let Some(key) = scan.next_key(std::mem::take(&mut is_first))? {
            let name = key.cow();
            let (rule, index) = fields.of(&name);
            if let Some(index) = index {
                seen[index] = true;
            }
            let before = out.len();
            if !is_first_out {
                out.push(b',');
            }
            millrace_schemas::json::encode_text(&name, out);
            out.push(b':');
            match self.value(rule, scan, out)? {
                true => is_first_out = false,
                false => out.truncate(before),
            }
        }
        out.push(b'}');
        self.missed += fields.named.values().zip(seen).filter(|(_, seen)| !seen).map(|(rule, _)| rule.changes()).sum::<u64>();
        Ok(())
    }
}
