//! What the fuzz targets of `tests/fuzz` feed.

use crate::address::Table;
use crate::frame::{RtuFrame, rtu_frame, tcp_frame};
use crate::pdu::{Exception, Read, Reply, Request, Write};
use crate::probe::objects;
use crate::sunspec::{BASES, Walk};
use millrace_kit::registers::{Encoding, Order, WordType};
use millrace_schemas::Batch;

/// Feeds arbitrary bytes as what a line brings, the first one choosing the request, and decodes what is taken for its answer: nothing may panic.
pub fn fuzz_modbus_answer(bytes: &[u8]) {
    let Some((&choice, bytes)) = bytes.split_first() else { return };
    let read = |table, count| Request::Read(Read { table, start: 0, count, register_bytes: 2 });
    let request = match choice % 6 {
        0 => read(Table::Holding, 2),
        1 => read(Table::Coil, 19),
        2 => Request::Write(Write::Register { start: 1, word: [0, 3] }),
        3 => Request::Write(Write::Mask { start: 4, and: 0xF2, or: 0x25 }),
        4 => Request::Identify { from: 0 },
        _ => read(Table::Input, 125),
    };
    let tcp = tcp_frame(bytes).ok().flatten().map(|frame| frame.pdu);
    let rtu = match rtu_frame(bytes, &request) {
        RtuFrame::Found { pdu, .. } => Some(pdu),
        RtuFrame::BadCrc | RtuFrame::Partial => None,
    };
    for pdu in [tcp, rtu, Some(0..bytes.len())].into_iter().flatten() {
        if let Ok(Reply::Data(data)) = request.reply(&bytes[pdu]) {
            let mut batch = Batch::new();
            for word in [WordType::F32, WordType::U64, WordType::Bcd(4), WordType::Mod10k(3), WordType::Text(250), WordType::Text(3)] {
                for order in Order::ALL {
                    let _ = word.read(order, Encoding::Cp1252, data, &mut batch);
                }
            }
            objects(data);
        }
    }
}

/// Feeds arbitrary bytes as what a SunSpec device answers to a walk, four bytes an answer, and then as the scale factors of what was found.
pub fn fuzz_modbus_sunspec(bytes: &[u8]) {
    for base in BASES {
        let mut walk = Walk::from(base);
        let mut answers = bytes.chunks(4);
        while !walk.is_over {
            match answers.next() {
                Some(answer) => _ = walk.take(answer),
                None => _ = walk.refused(Exception::ADDRESS),
            }
        }
        for model in &walk.models {
            for at in model.factors() {
                assert!(at >= model.start, "a factor lies in its model");
            }
            let _ = model.tags("model", |at| bytes.get(usize::from(at) % bytes.len().max(1)).map(|byte| i16::from(*byte as i8)));
        }
    }
}
