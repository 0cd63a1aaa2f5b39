//! One chart as SVG: axes with units, a grid, lines. Colours are classes of the page's style, so that a chart
//! follows it from light to dark.

use super::escape;
use std::fmt::Write;

/// A chart with lines over an axis.
#[derive(Debug)]
pub(super) struct Chart {
    pub title: &'static str,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

#[derive(Debug)]
pub(super) struct Axis {
    pub label: &'static str,
    pub scale: Scale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// Powers of ten; values below 1 count as 1. Milliseconds.
    Log,
}

#[derive(Debug)]
pub(super) struct Line {
    pub name: String,
    /// By `x`.
    pub points: Points,
    pub shape: Shape,
}

pub(super) type Points = Vec<(f64, f64)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Straight,
    /// A value holds until the next.
    Step,
}

/// Lines beyond these share colours, and nobody could tell them apart.
pub(super) const LINES_MAX: usize = 8;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
/// Room for the axes' words.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;

/// Values from 0 to the end of an axis, with those that are written beside it.
struct Ruler {
    scale: Scale,
    end: f64,
    ticks: Vec<(f64, String)>,
}

impl Ruler {
    fn of(scale: Scale, most: f64) -> Ruler {
        match scale {
            Scale::Linear => {
                let most = if most > 0.0 { most } else { 1.0 };
                let rough = libm::pow(10.0, libm::floor(libm::log10(most / 5.0)));
                let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * rough).into_iter().find(|step| most / step <= 5.5);
                let step = step.unwrap_or(10.0 * rough);
                let count = libm::ceil(most / step) as usize;
                let ticks = (0..=count).map(|n| (n as f64 * step, short(n as f64 * step))).collect();
                Ruler { scale, end: count as f64 * step, ticks }
            }
            Scale::Log => {
                let decades = libm::ceil(libm::log10(most.max(10.0))) as i32;
                let name = |n: i32| match n {
                    0..3 => format!("{} ms", 10u32.pow(n as u32)),
                    _ => format!("{} s", short(libm::pow(10.0, f64::from(n - 3)))),
                };
                let ticks = (0..=decades).map(|n| (libm::pow(10.0, f64::from(n)), name(n))).collect();
                Ruler { scale, end: f64::from(decades), ticks }
            }
        }
    }

    /// From 0 at the axis' beginning to 1 at its end.
    fn place(&self, value: f64) -> f64 {
        let value = if self.scale == Scale::Log { libm::log10(value.max(1.0)) } else { value };
        (value / self.end).clamp(0.0, 1.0)
    }
}

/// A number as an axis has room for it.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", v / 1e6),
        v if v >= 1e4 => format!("{} k", v / 1e3),
        // Multiples of 1, 2 and 5 have few digits, but binary fractions do not.
        v => format!("{}", libm::round(v * 1e4) / 1e4),
    }
}

impl Chart {
    pub(super) fn html(&self) -> String {
        let most =
            |of: fn(&(f64, f64)) -> f64| self.lines.iter().flat_map(|line| &line.points).map(of).fold(0.0, f64::max);
        let x = Ruler::of(self.x.scale, most(|point| point.0));
        let y = Ruler::of(self.y.scale, most(|point| point.1));
        let at = |px: f64, py: f64| {
            (LEFT + x.place(px) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y.place(py) * (HEIGHT - TOP - BOTTOM))
        };
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", self.title);
        for (value, name) in &y.ticks {
            let (_, v) = at(0.0, *value);
            let _ = write!(svg, "<path class=\"grid\" d=\"M{LEFT} {v:.1}H{}\"/>", WIDTH - RIGHT);
            let _ = write!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>", LEFT - 6.0, v + 4.0);
        }
        for (value, name) in &x.ticks {
            let (h, _) = at(*value, 0.0);
            let foot = HEIGHT - BOTTOM;
            let _ = write!(svg, "<path class=\"grid\" d=\"M{h:.1} {TOP}V{foot}\"/>");
            let _ = write!(svg, "<text x=\"{h:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>", foot + 16.0);
        }
        let (middle, height) = ((LEFT + WIDTH - RIGHT) / 2.0, (TOP + HEIGHT - BOTTOM) / 2.0);
        let _ =
            write!(svg, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>", HEIGHT - 8.0, self.x.label);
        let _ = write!(
            svg,
            "<text transform=\"translate(14 {height}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            self.y.label
        );
        for (n, line) in self.lines.iter().enumerate().take(LINES_MAX) {
            let mut path = String::new();
            for (i, &(px, py)) in line.points.iter().enumerate() {
                let (h, v) = at(px, py);
                let _ = match (i, line.shape) {
                    (0, _) => write!(path, "M{h:.1} {v:.1}"),
                    (_, Shape::Straight) => write!(path, "L{h:.1} {v:.1}"),
                    (_, Shape::Step) => write!(path, "H{h:.1}V{v:.1}"),
                };
            }
            let _ = write!(svg, "<path class=\"line c{n}\" d=\"{path}\"/>");
        }
        svg += "</svg>";
        let keys = self.lines.iter().enumerate().take(LINES_MAX);
        let keys: String = keys.map(|(n, line)| format!("<li class=\"c{n}\">{}</li>", escape(&line.name))).collect();
        let left = self.lines.len().saturating_sub(LINES_MAX);
        let left = if left > 0 { format!("<p class=\"note\">{left} more are not drawn</p>") } else { String::new() };
        format!("<figure><figcaption>{}</figcaption>{svg}<ul class=\"key\">{keys}</ul>{left}</figure>", self.title)
    }
}
