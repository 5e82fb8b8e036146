//! The curves of a report as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::Report;
use super::score::{BINS, Confusion, Scores};

/// Width and height in pixels.
const SIZE: (u32, u32) = (600, 580);
/// Height of the part with title and legend, above the chart: in it they would cover a curve.
const HEAD: u32 = 100;
/// Where the legend begins in it, and what each of its lines takes.
const LEGEND: (i32, i32) = (72, 40);
const LEGEND_LINE: i32 = 20;
const FONT: &str = "sans-serif";
/// Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008).
const HELD_OUT: RGBColor = RGBColor(0, 114, 178);
const TRAIN: RGBColor = RGBColor(230, 159, 0);
const GUIDE: RGBColor = RGBColor(110, 110, 110);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Shares of a whole, as a curve.
struct Curve {
    label: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// What is drawn.
struct Picture {
    title: &'static str,
    /// Names of the axes.
    axes: (&'static str, &'static str),
    /// What the diagonal is.
    diagonal: &'static str,
    curves: Vec<Curve>,
    /// Whether each point of a curve is a measurement of its own.
    dotted: bool,
    /// Points with a name.
    marks: Vec<(&'static str, (f64, f64))>,
}

/// The ROC curves: what thresholds would have caught and hit, and where those of ALERT and QUARANTINE are.
///
/// # Errors
/// An error of the drawing library.
pub fn roc(report: &Report) -> Result<String, String> {
    let curve = |name: &str, colour, scores: &Scores| Curve {
        label: match scores.auc {
            Some(auc) => format!("{name}, AUC {auc:.4}"),
            None => format!("{name}: one label only"),
        },
        colour,
        points: scores.roc.iter().map(|it| (it.false_positive_rate, it.true_positive_rate)).collect(),
    };
    let unseen = report.new.unseen();
    let mark = |name, it: Confusion| {
        let share = |part: u64, rest: u64| part as f64 / (part + rest).max(1) as f64;
        (name, (share(it.calm_hit, it.calm_left), share(it.incidents_caught, it.incidents_missed)))
    };
    let marks = [mark("ALERT", unseen.alert), mark("QUARANTINE", unseen.quarantine)];
    draw(&Picture {
        title: "ROC: incidents caught against calm rows hit",
        axes: ("share of the calm rows hit (0 to 1)", "share of the incidents caught (0 to 1)"),
        diagonal: "chance, AUC 0.5",
        curves: curves(report, curve),
        dotted: false,
        marks: marks.into_iter().filter(|_| unseen.rows.has_both()).collect(),
    })
}

/// The calibration curves: how many of the rows with some threat are incidents.
///
/// # Errors
/// An error of the drawing library.
pub fn calibration(report: &Report) -> Result<String, String> {
    let curve = |name: &str, colour, scores: &Scores| Curve {
        label: format!("{name}, Brier score {:.4}", scores.brier),
        colour,
        points: scores.calibration.iter().map(|it| (it.mean_threat, it.incident_share)).collect(),
    };
    draw(&Picture {
        title: "Calibration: incidents among rows of about the same threat",
        axes: ("mean threat of the rows in a bin (0 to 1)", "share of them that are incidents (0 to 1)"),
        diagonal: "calibrated: as many as the threat says",
        curves: curves(report, curve),
        dotted: true,
        marks: vec![],
    })
}

/// Of the trained rows, and over it of those held out.
fn curves(report: &Report, of: impl Fn(&str, RGBColor, &Scores) -> Curve) -> Vec<Curve> {
    let train = of("train", TRAIN, &report.new.train);
    let held_out = report.new.held_out.as_ref().map(|scores| of("held out", HELD_OUT, scores));
    std::iter::once(train).chain(held_out).collect()
}

fn draw(picture: &Picture) -> Result<String, String> {
    let mut svg = String::new();
    draw_to(&SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), picture)
        .map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw_to(area: &Area<'_>, picture: &Picture) -> Drawn {
    area.fill(&WHITE)?;
    let (head, body) = area.split_vertically(HEAD);
    legend(&head, picture)?;
    let mut chart = ChartBuilder::on(&body)
        .margin(12)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
    chart
        .configure_mesh()
        .x_desc(picture.axes.0)
        .y_desc(picture.axes.1)
        .x_labels(BINS + 1)
        .y_labels(BINS + 1)
        .max_light_lines(0)
        .x_label_formatter(&|it| format!("{it:.1}"))
        .y_label_formatter(&|it| format!("{it:.1}"))
        .label_style((FONT, 15))
        .axis_desc_style((FONT, 17))
        .draw()?;
    chart.draw_series(DashedLineSeries::new([(0.0, 0.0), (1.0, 1.0)], 6, 4, GUIDE.stroke_width(1)))?;
    for Curve { colour, points, .. } in &picture.curves {
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        let dots = points.iter().filter(|_| picture.dotted);
        chart.draw_series(dots.map(|at| Circle::new(*at, 4, colour.filled())))?;
    }
    for (name, at) in &picture.marks {
        chart.draw_series([EmptyElement::at(*at)
            + Circle::new((0, 0), 5, BLACK.filled())
            + Text::new(*name, (10, 4), (FONT, 16))])?;
    }
    area.present()?;
    Ok(())
}

/// The title, and below it the legend.
fn legend(area: &Area<'_>, picture: &Picture) -> Drawn {
    let (x, mut y) = LEGEND;
    area.draw(&Text::new(picture.title, (x, 12), (FONT, 21)))?;
    let diagonal = (picture.diagonal, GUIDE.stroke_width(1));
    let curves = picture.curves.iter().map(|it| (&*it.label, it.colour.stroke_width(3)));
    for (label, style) in curves.chain([diagonal]) {
        area.draw(&PathElement::new([(x, y + 7), (x + 24, y + 7)], style))?;
        area.draw(&Text::new(label, (x + 34, y), (FONT, 16)))?;
        y += LEGEND_LINE;
    }
    Ok(())
}
