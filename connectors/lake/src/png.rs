//! A plot as PNG, for mails and reports that show no SVG: an image of few colours, written without a library of pictures.
//!
//! ```text
//! signature, IHDR (width, height, 8 bits, palette), PLTE, IDAT (zlib: a 0 and the row's pixels, row after row), IEND
//! a piece: u32 length, name, bytes, CRC-32 of name and bytes
//! ```
//!
//! Source: PNG specification, third edition (W3C).

use crate::plot::{Plot, number, time};
use flate2::Compression;
use flate2::Crc;
use flate2::write::ZlibEncoder;
use millrace_schemas::Quality;
use std::io::Write;

const WIDTH: usize = 960;
const HEIGHT: usize = 360;
const LEFT: usize = 140;
const RIGHT: usize = 20;
const TOP: usize = 44;
const BOTTOM: usize = 40;
/// A dot of the font, in pixels.
const DOT: usize = 2;
/// A character with the gap behind it.
const ADVANCE: usize = 6 * DOT;

/// An index into [`PALETTE`].
type Colour = u8;
const WHITE: Colour = 0;
const BLACK: Colour = 1;
const GRID: Colour = 2;
const UNKNOWN: Colour = 3;
const GOOD: Colour = 4;
const DOUBTFUL: Colour = 5;
/// As in SVG.
const PALETTE: [[u8; 3]; 6] = [[255, 255, 255], [0, 0, 0], [0xdd, 0xdd, 0xdd], [0xee, 0xee, 0xee], [0x15, 0x65, 0xc0], [0xef, 0x6c, 0x00]];

impl Plot<'_> {
    /// The bytes of a file, 960 by 360.
    pub fn png(&self) -> Vec<u8> {
        let mut image = Image { pixels: vec![WHITE; WIDTH * HEIGHT] };
        let steps = self.steps();
        let (low, high) = Self::limits(&steps).unwrap_or((0.0, 1.0));
        let (across, down) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let at_x = |time: i64| LEFT + (self.share(time).clamp(0.0, 1.0) * (across - 1) as f64) as usize;
        let at_y = |value: f64| TOP + (((high - value) / (high - low)).clamp(0.0, 1.0) * (down - 2) as f64) as usize;
        if self.known_until < self.range.end {
            let from = at_x(self.known_until.max(self.range.start));
            image.fill(from..LEFT + across, TOP..TOP + down, UNKNOWN);
        }
        for quarter in 0..=4 {
            let value = (high - low).mul_add(f64::from(quarter) / 4.0, low);
            let (y, label) = (at_y(value), number(value));
            image.fill(LEFT..LEFT + across, y..y + 1, GRID);
            image.text(LEFT.saturating_sub(8 + label.chars().count() * ADVANCE), y.saturating_sub(3 * DOT), &label);
        }
        let mut last: Option<(i64, usize)> = None;
        for step in &steps {
            let colour = if step.quality == Quality::Good { GOOD } else { DOUBTFUL };
            let (y, from, to) = (at_y(step.value), at_x(step.from), at_x(step.to));
            if let Some((_, before)) = last.filter(|(end, _)| *end == step.from) {
                image.fill(from..from + 2, y.min(before)..y.max(before) + 2, colour);
            }
            image.fill(from..to.max(from) + 2, y..y + 2, colour);
            last = Some((step.to, y));
        }
        image.text(LEFT, 16, self.title);
        if steps.is_empty() {
            image.text(WIDTH / 2 - 120, HEIGHT / 2, "no values in this range");
        }
        let (from, to) = (time(self.range.start), time(self.range.end));
        image.text(LEFT, HEIGHT - 26, &from);
        image.text((WIDTH - RIGHT).saturating_sub(to.len() * ADVANCE), HEIGHT - 26, &to);
        image.encode()
    }
}

struct Image {
    pixels: Vec<Colour>,
}

impl Image {
    /// What lies outside is not drawn.
    fn fill(&mut self, x: std::ops::Range<usize>, y: std::ops::Range<usize>, colour: Colour) {
        for row in y.start..y.end.min(HEIGHT) {
            let (from, to) = (x.start.min(WIDTH), x.end.min(WIDTH));
            self.pixels[row * WIDTH + from..row * WIDTH + to.max(from)].fill(colour);
        }
    }

    /// Characters that the font lacks are `?`.
    fn text(&mut self, x: usize, y: usize, text: &str) {
        for (index, character) in text.chars().enumerate() {
            let glyph = (character as usize).checked_sub(32).and_then(|glyph| FONT.get(glyph)).unwrap_or(&FONT['?' as usize - 32]);
            for (column, bits) in glyph.iter().enumerate() {
                for row in (0..7).filter(|row| bits >> row & 1 == 1) {
                    let (x, y) = (x + index * ADVANCE + column * DOT, y + row * DOT);
                    self.fill(x..x + DOT, y..y + DOT, BLACK);
                }
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut head = Vec::new();
        head.extend_from_slice(&(WIDTH as u32).to_be_bytes());
        head.extend_from_slice(&(HEIGHT as u32).to_be_bytes());
        // 8 bits, a palette; the one compression, the one way to filter, not interlaced.
        head.extend_from_slice(&[8, 3, 0, 0, 0]);
        piece(&mut out, *b"IHDR", &head);
        piece(&mut out, *b"PLTE", &PALETTE.concat());
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
        for row in self.pixels.chunks(WIDTH) {
            packed.write_all(&[0]).and_then(|()| packed.write_all(row)).expect("memory takes everything");
        }
        piece(&mut out, *b"IDAT", &packed.finish().expect("memory takes everything"));
        piece(&mut out, *b"IEND", &[]);
        out
    }
}

fn piece(out: &mut Vec<u8>, name: [u8; 4], bytes: &[u8]) {
    let mut crc = Crc::new();
    crc.update(&name);
    crc.update(bytes);
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(&name);
    out.extend_from_slice(bytes);
    out.extend_from_slice(&crc.sum().to_be_bytes());
}

/// The characters from the blank to `~`, five columns each, the lowest bit on top.
#[rustfmt::skip]
const FONT: [[u8; 5]; 95] = [
    [0x00, 0x00, 0x00, 0x00, 0x00], [0x00, 0x00, 0x5f, 0x00, 0x00], [0x00, 0x07, 0x00, 0x07, 0x00], [0x14, 0x7f, 0x14, 0x7f, 0x14],
    [0x24, 0x2a, 0x7f, 0x2a, 0x12], [0x23, 0x13, 0x08, 0x64, 0x62], [0x36, 0x49, 0x55, 0x22, 0x50], [0x00, 0x05, 0x03, 0x00, 0x00],
    [0x00, 0x1c, 0x22, 0x41, 0x00], [0x00, 0x41, 0x22, 0x1c, 0x00], [0x14, 0x08, 0x3e, 0x08, 0x14], [0x08, 0x08, 0x3e, 0x08, 0x08],
    [0x00, 0x50, 0x30, 0x00, 0x00], [0x08, 0x08, 0x08, 0x08, 0x08], [0x00, 0x60, 0x60, 0x00, 0x00], [0x20, 0x10, 0x08, 0x04, 0x02],
    [0x3e, 0x51, 0x49, 0x45, 0x3e], [0x00, 0x42, 0x7f, 0x40, 0x00], [0x42, 0x61, 0x51, 0x49, 0x46], [0x21, 0x41, 0x45, 0x4b, 0x31],
    [0x18, 0x14, 0x12, 0x7f, 0x10], [0x27, 0x45, 0x45, 0x45, 0x39], [0x3c, 0x4a, 0x49, 0x49, 0x30], [0x01, 0x71, 0x09, 0x05, 0x03],
    [0x36, 0x49, 0x49, 0x49, 0x36], [0x06, 0x49, 0x49, 0x29, 0x1e], [0x00, 0x36, 0x36, 0x00, 0x00], [0x00, 0x56, 0x36, 0x00, 0x00],
    [0x08, 0x14, 0x22, 0x41, 0x00], [0x14, 0x14, 0x14, 0x14, 0x14], [0x00, 0x41, 0x22, 0x14, 0x08], [0x02, 0x01, 0x51, 0x09, 0x06],
    [0x32, 0x49, 0x79, 0x41, 0x3e], [0x7e, 0x11, 0x11, 0x11, 0x7e], [0x7f, 0x49, 0x49, 0x49, 0x36], [0x3e, 0x41, 0x41, 0x41, 0x22],
    [0x7f, 0x41, 0x41, 0x22, 0x1c], [0x7f, 0x49, 0x49, 0x49, 0x41], [0x7f, 0x09, 0x09, 0x09, 0x01], [0x3e, 0x41, 0x49, 0x49, 0x7a],
    [0x7f, 0x08, 0x08, 0x08, 0x7f], [0x00, 0x41, 0x7f, 0x41, 0x00], [0x20, 0x40, 0x41, 0x3f, 0x01], [0x7f, 0x08, 0x14, 0x22, 0x41],
    [0x7f, 0x40, 0x40, 0x40, 0x40], [0x7f, 0x02, 0x0c, 0x02, 0x7f], [0x7f, 0x04, 0x08, 0x10, 0x7f], [0x3e, 0x41, 0x41, 0x41, 0x3e],
    [0x7f, 0x09, 0x09, 0x09, 0x06], [0x3e, 0x41, 0x51, 0x21, 0x5e], [0x7f, 0x09, 0x19, 0x29, 0x46], [0x46, 0x49, 0x49, 0x49, 0x31],
    [0x01, 0x01, 0x7f, 0x01, 0x01], [0x3f, 0x40, 0x40, 0x40, 0x3f], [0x1f, 0x20, 0x40, 0x20, 0x1f], [0x3f, 0x40, 0x38, 0x40, 0x3f],
    [0x63, 0x14, 0x08, 0x14, 0x63], [0x07, 0x08, 0x70, 0x08, 0x07], [0x61, 0x51, 0x49, 0x45, 0x43], [0x00, 0x7f, 0x41, 0x41, 0x00],
    [0x02, 0x04, 0x08, 0x10, 0x20], [0x00, 0x41, 0x41, 0x7f, 0x00], [0x04, 0x02, 0x01, 0x02, 0x04], [0x40, 0x40, 0x40, 0x40, 0x40],
    [0x00, 0x01, 0x02, 0x04, 0x00], [0x20, 0x54, 0x54, 0x54, 0x78], [0x7f, 0x48, 0x44, 0x44, 0x38], [0x38, 0x44, 0x44, 0x44, 0x20],
    [0x38, 0x44, 0x44, 0x48, 0x7f], [0x38, 0x54, 0x54, 0x54, 0x18], [0x08, 0x7e, 0x09, 0x01, 0x02], [0x0c, 0x52, 0x52, 0x52, 0x3e],
    [0x7f, 0x08, 0x04, 0x04, 0x78], [0x00, 0x44, 0x7d, 0x40, 0x00], [0x20, 0x40, 0x44, 0x3d, 0x00], [0x7f, 0x10, 0x28, 0x44, 0x00],
    [0x00, 0x41, 0x7f, 0x40, 0x00], [0x7c, 0x04, 0x18, 0x04, 0x78], [0x7c, 0x08, 0x04, 0x04, 0x78], [0x38, 0x44, 0x44, 0x44, 0x38],
    [0x7c, 0x14, 0x14, 0x14, 0x08], [0x08, 0x14, 0x14, 0x18, 0x7c], [0x7c, 0x08, 0x04, 0x04, 0x08], [0x48, 0x54, 0x54, 0x54, 0x20],
    [0x04, 0x3f, 0x44, 0x40, 0x20], [0x3c, 0x40, 0x40, 0x20, 0x7c], [0x1c, 0x20, 0x40, 0x20, 0x1c], [0x3c, 0x40, 0x30, 0x40, 0x3c],
    [0x44, 0x28, 0x10, 0x28, 0x44], [0x0c, 0x50, 0x50, 0x50, 0x3c], [0x44, 0x64, 0x54, 0x4c, 0x44], [0x00, 0x08, 0x36, 0x41, 0x00],
    [0x00, 0x00, 0x7f, 0x00, 0x00], [0x00, 0x41, 0x36, 0x08, 0x00], [0x08, 0x04, 0x08, 0x10, 0x08],
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::Point;
    use std::io::Read;

    /// The pixels of a file, each piece with the right sum.
    fn pixels(file: &[u8]) -> Vec<Colour> {
        assert_eq!(file[..8], *b"\x89PNG\r\n\x1a\n");
        let (mut rest, mut names, mut packed) = (&file[8..], Vec::new(), Vec::new());
        while !rest.is_empty() {
            let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            let mut crc = Crc::new();
            crc.update(&rest[4..8 + length]);
            assert_eq!(rest[8 + length..12 + length], crc.sum().to_be_bytes());
            names.push(std::str::from_utf8(&rest[4..8]).unwrap());
            if rest[4..8] == *b"IDAT" {
                packed.extend_from_slice(&rest[8..8 + length]);
            }
            rest = &rest[12 + length..];
        }
        assert_eq!(names, ["IHDR", "PLTE", "IDAT", "IEND"]);
        let mut rows = Vec::new();
        flate2::read::ZlibDecoder::new(&*packed).read_to_end(&mut rows).unwrap();
        assert_eq!(rows.len(), (WIDTH + 1) * HEIGHT);
        rows.chunks(WIDTH + 1).flat_map(|row| &row[1..]).copied().collect()
    }

    fn drawn(points: &[(i64, Option<f64>, Quality)], known_until: i64) -> Vec<Colour> {
        let points: Vec<Point> =
            points.iter().map(|(time, value, quality)| Point { time: *time, value: *value, quality: *quality }).collect();
        pixels(&Plot { title: "press-1/ü", points: &points, range: 0..100, known_until }.png())
    }

    /// The colours of a column of the picture, from the left, without the grid and the ground.
    fn column(pixels: &[Colour], share: f64) -> Vec<(usize, Colour)> {
        let x = LEFT + ((WIDTH - LEFT - RIGHT) as f64 * share) as usize;
        (TOP..HEIGHT - BOTTOM).map(|y| (y - TOP, pixels[y * WIDTH + x])).filter(|(_, colour)| *colour >= GOOD).collect()
    }

    #[test]
    fn a_step_is_drawn_until_the_next_value_a_gap_stays_empty_and_doubt_has_its_colour() {
        let (good, doubtful) = (Quality::Good, Quality::Uncertain);
        let pixels = drawn(&[(0, Some(1.0), good), (25, Some(9.0), good), (50, None, Quality::Bad), (75, Some(5.0), doubtful)], 90);
        let down = HEIGHT - TOP - BOTTOM;
        assert_eq!(column(&pixels, 0.1), [(down - 2, GOOD), (down - 1, GOOD)]);
        assert_eq!(column(&pixels, 0.4), [(0, GOOD), (1, GOOD)]);
        assert_eq!(column(&pixels, 0.6), []);
        assert_eq!(column(&pixels, 0.8), [(down / 2 - 1, DOUBTFUL), (down / 2, DOUBTFUL)]);
        assert_eq!(column(&pixels, 0.95), [], "nothing is known behind the last commit");
        assert_eq!(pixels[(TOP + 10) * WIDTH + WIDTH - RIGHT - 10], UNKNOWN);
        assert!(pixels[16 * WIDTH..30 * WIDTH].contains(&BLACK), "the title stands above");
    }

    #[test]
    fn any_values_are_drawn() {
        for value in [0.0, -1e308, 1e308, 5e-324] {
            drawn(&[(0, Some(value), Quality::Good), (50, Some(-value), Quality::Good)], 100);
        }
        assert!(!drawn(&[], 0).iter().any(|colour| *colour >= GOOD));
    }
}
