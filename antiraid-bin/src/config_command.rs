//! `antiraid config`: the settings in force.

use comfy_table::{Table, presets};

use crate::cli::{CommandError, ConfigArgs, Outcome};
use crate::config::EffectiveSetting;
use crate::output::Output;

/// Prints every setting with its value and where that comes from.
pub fn run(args: &ConfigArgs, settings: &[EffectiveSetting], output: &mut Output) -> Result<Outcome, CommandError> {
    if args.json {
        output.json(&settings)?;
        return Ok(Outcome::Good);
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["setting", "value", "from", "meaning"]);
    for EffectiveSetting { key, value, from, help } in settings {
        table.add_row([*key, value, from, help]);
    }
    output.line(table)?;
    Ok(Outcome::Good)
}
