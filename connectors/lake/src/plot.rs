//! Plots of one tag, for a terminal (braille) and as SVG. A value is drawn as a step: it holds until the next; gaps stay empty, and what is not good
//! is told apart.

use crate::series::Point;
use jiff::Timestamp;
use millrace_schemas::Quality;
use std::fmt::Write;
use std::ops::Range;

/// Points to draw, and where.
pub struct Plot<'a> {
    pub title: &'a str,
    pub points: &'a [Point],
    /// Microseconds since 1970.
    pub range: Range<i64>,
    /// Nothing is known behind it.
    pub known_until: i64,
}

/// A piece of time in which one value held.
pub(crate) struct Step {
    pub from: i64,
    pub to: i64,
    pub value: f64,
    pub quality: Quality,
}

impl Plot<'_> {
    pub(crate) fn steps(&self) -> Vec<Step> {
        let end = self.range.end.min(self.known_until);
        let mut steps = Vec::new();
        for (index, point) in self.points.iter().enumerate() {
            let to = self.points.get(index + 1).map_or(end, |next| next.time).clamp(self.range.start, self.range.end);
            let from = point.time.clamp(self.range.start, self.range.end);
            if let Some(value) = point.value
                && from <= to
            {
                steps.push(Step { from, to, value, quality: point.quality });
            }
        }
        steps
    }

    /// The values' limits, with room where there is but one.
    pub(crate) fn limits(steps: &[Step]) -> Option<(f64, f64)> {
        let low = steps.iter().map(|step| step.value).fold(f64::INFINITY, f64::min);
        let high = steps.iter().map(|step| step.value).fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return None;
        }
        let room = if high > low { 0.0 } else { low.abs().max(1.0) * 0.1 };
        Some((low - room, high + room))
    }

    pub(crate) fn share(&self, time: i64) -> f64 {
        (time - self.range.start) as f64 / (self.range.end - self.range.start).max(1) as f64
    }

    /// Lines of braille, two by four dots to a character, with the limits beside them and the range below.
    pub fn terminal(&self, width: usize, height: usize) -> String {
        let steps = self.steps();
        let mut text = format!("{}\n", self.title);
        let Some((low, high)) = Self::limits(&steps) else {
            text.push_str("no values in this range\n");
            return text;
        };
        let (columns, rows) = (width.clamp(20, 400) - 12, height.clamp(4, 100));
        let (dots_x, dots_y) = (columns * 2, rows * 4);
        let mut cells = vec![0u8; columns * rows];
        let mut dot = |x: usize, y: usize| {
            const BITS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
            let (x, y) = (x.min(dots_x - 1), y.min(dots_y - 1));
            cells[(y / 4) * columns + x / 2] |= BITS[x % 2][y % 4];
        };
        let at_x = |time: i64| (self.share(time) * (dots_x - 1) as f64).round() as usize;
        let at_y = |value: f64| ((high - value) / (high - low) * (dots_y - 1) as f64).round() as usize;
        let mut last: Option<(i64, usize)> = None;
        for step in &steps {
            let y = at_y(step.value);
            // Down or up to the next value, where nothing lies between.
            if let Some((to, before)) = last.filter(|(to, _)| *to == step.from) {
                (y.min(before)..=y.max(before)).for_each(|y| dot(at_x(to), y));
            }
            (at_x(step.from)..=at_x(step.to)).for_each(|x| dot(x, y));
            last = Some((step.to, y));
        }
        for row in 0..rows {
            let label = match row {
                0 => number(high),
                row if row == rows - 1 => number(low),
                _ => String::new(),
            };
            let _ = write!(text, "{label:>11} ");
            text.extend((0..columns).map(|column| char::from_u32(0x2800 + u32::from(cells[row * columns + column])).unwrap_or(' ')));
            text.push('\n');
        }
        let (from, to) = (time(self.range.start), time(self.range.end));
        let gap = columns.saturating_sub(from.len() + to.len()).max(1);
        let _ = writeln!(text, "{:12}{from}{:gap$}{to}", "", "");
        text
    }

    /// A picture, 960 by 360, without scripts or fonts of its own.
    pub fn svg(&self) -> String {
        const W: f64 = 960.0;
        const H: f64 = 360.0;
        const LEFT: f64 = 90.0;
        const RIGHT: f64 = 20.0;
        const TOP: f64 = 40.0;
        const BOTTOM: f64 = 40.0;
        let steps = self.steps();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {W} {H}\" font-family=\"sans-serif\" font-size=\"12\">\n<title>{title}</title>\n<rect width=\"{W}\" height=\"{H}\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>\n",
            title = escaped(self.title)
        );
        let (low, high) = Self::limits(&steps).unwrap_or((0.0, 1.0));
        let x = |time: i64| LEFT + self.share(time) * (W - LEFT - RIGHT);
        let y = |value: f64| TOP + (high - value) / (high - low) * (H - TOP - BOTTOM);
        for quarter in 0..=4 {
            let value = (high - low).mul_add(f64::from(quarter) / 4.0, low);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{}\" stroke=\"#ddd\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                W - RIGHT,
                LEFT - 6.0,
                y(value) + 4.0,
                number(value),
                y = y(value)
            );
        }
        let mut paths = [String::new(), String::new()];
        let mut last: Option<(i64, f64)> = None;
        for step in &steps {
            let path = &mut paths[usize::from(step.quality != Quality::Good)];
            match last.filter(|(to, _)| *to == step.from) {
                Some((to, before)) => _ = write!(path, "M{:.1} {:.1}V{:.1}H{:.1}", x(to), y(before), y(step.value), x(step.to)),
                None => _ = write!(path, "M{:.1} {:.1}H{:.1}", x(step.from), y(step.value), x(step.to)),
            }
            last = Some((step.to, step.value));
        }
        for (path, color) in paths.iter().zip(["#1565c0", "#ef6c00"]).filter(|(path, _)| !path.is_empty()) {
            let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>");
        }
        if steps.is_empty() {
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">no values in this range</text>", W / 2.0, H / 2.0);
        }
        if self.known_until < self.range.end {
            let from = x(self.known_until.max(self.range.start));
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\" fill=\"#eee\"><title>not in the lake yet</title></rect>",
                W - RIGHT - from,
                H - TOP - BOTTOM
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{0}\">{1}</text><text x=\"{2}\" y=\"{0}\" text-anchor=\"end\">{3}</text>\n</svg>",
            H - 14.0,
            time(self.range.start),
            W - RIGHT,
            time(self.range.end)
        );
        svg
    }
}

/// A number in at most ten characters.
pub(crate) fn number(value: f64) -> String {
    let plain = format!("{value:.3}");
    let plain = plain.trim_end_matches('0').trim_end_matches('.');
    if plain.len() <= 10 && (value == 0.0 || value.abs() >= 0.001) { plain.to_owned() } else { format!("{value:.3e}") }
}

pub(crate) fn time(micros: i64) -> String {
    Timestamp::from_microsecond(micros).map_or_else(|_| micros.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(i64, Option<f64>)], draw: impl Fn(&Plot) -> String) -> String {
        let points: Vec<Point> = points.iter().map(|(time, value)| Point { time: *time, value: *value, quality: Quality::Good }).collect();
        draw(&Plot { title: "a/<b>", points: &points, range: 0..100, known_until: 80 })
    }

    #[test]
    fn a_step_is_drawn_until_the_next_value_and_a_gap_stays_empty() {
        let text = plot(&[(0, Some(1.0)), (25, Some(9.0)), (50, None), (75, Some(1.0))], |plot| plot.terminal(32, 4));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(lines[1].starts_with("          9 ") && lines[4].starts_with("          1 "), "{text}");
        let row = |line: &str| line.chars().skip(12).map(|c| if c == '\u{2800}' { '.' } else { '#' }).collect::<String>();
        assert_eq!(row(lines[1]), ".....######.........");
        assert_eq!(row(lines[4]), "######........##....", "{text}");
        assert_eq!(plot(&[(0, None)], |plot| plot.terminal(40, 4)), "a/<b>\nno values in this range\n");
    }

    #[test]
    fn a_picture_escapes_its_title_and_shows_what_is_not_known() {
        let svg = plot(&[(0, Some(1.0)), (50, Some(2.0))], |plot| plot.svg());
        assert!(svg.contains("a/&lt;b&gt;") && svg.contains("not in the lake yet") && svg.ends_with("</svg>\n"), "{svg}");
        assert!(svg.contains("M90.0 ") && svg.contains('V'), "{svg}");
    }
}
