//! `ctx.ImageCaptcha`: pictures of text that programs find hard to read (template API, section 9).

#![expect(unsafe_code, reason = "Luau's C API")]

mod canvas;
mod config;
mod filters;
mod glyphs;

use std::ffi::c_int;
use std::time::Instant;

use rand::seq::IndexedRandom;
use worker_core::RatelimitFamily;

use self::canvas::{Canvas, Late};
use self::config::CaptchaConfig;
use crate::error::ApiError;
use crate::luau::native::{self, Call};
use crate::luau::stack::{Push, push_buffer, set_field};
use crate::luau::{ffi, lua_State};
use crate::runtime::held::{Counted, Held};
use crate::runtime::long_work::Work;
use crate::tenant::Tenant;

/// Pushes the plugin: a table, since its function is called with a dot. May raise.
pub(crate) fn push_plugin(l: *mut lua_State) -> c_int {
    // SAFETY: raises if there is no room; each value is stored at once.
    unsafe {
        ffi::lua_rawcheckstack(l, 3);
        ffi::lua_createtable(l, 0, 1);
        native::push_working(l, c"Create", create);
        set_field(l, -2, c"Create");
        ffi::lua_setreadonly(l, -1, 1);
    }
    1
}

/// A text, and the picture that shows it.
struct Captcha {
    text: String,
    png: Vec<u8>,
}

impl Push for Captcha {
    fn push(self, l: *mut lua_State) -> c_int {
        // SAFETY: as in `push_plugin`.
        unsafe {
            ffi::lua_rawcheckstack(l, 3);
            ffi::lua_createtable(l, 0, 2);
        }
        self.text.push(l);
        set_field(l, -2, c"text");
        push_buffer(l, &self.png);
        set_field(l, -2, c"image");
        1
    }
}

/// `Create(config)`: always drawn elsewhere.
fn create(call: &Call) -> Result<Work<Counted<Captcha>>, ApiError> {
    let vm = call.vm();
    let config = CaptchaConfig::read(&call.value(1)?, &vm.limits().captcha)?;
    if !call.can_yield() {
        return Err(ApiError::too_large("captcha (to draw it has to wait, which is impossible here)"));
    }
    vm.tenant.ratelimits.take(RatelimitFamily::ImageCaptcha, "image_captcha", 1)?;
    let services = vm.surroundings.state.services();
    let (permits, home) = (services.captchas().clone(), services.home().clone());
    let (weak, tenant, timeout) = (vm.weak(), vm.tenant.clone(), vm.limits().captcha.timeout);
    let deadline = Instant::now() + timeout;
    Ok(Work::Later(Box::pin(async move {
        let drawn = async {
            // One at a time for a tenant, and few at once for all, so what they draw on need not be counted. The semaphores
            // are never closed.
            let own = tenant.long_work.clone().acquire_owned().await;
            tenant.account.until_within_share().await;
            let permits = (permits.acquire_owned().await, own);
            let begun = Instant::now();
            let drawn = home.run_blocking(move || {
                let _permits = permits;
                draw(&config, deadline)
            });
            let _paid = Paid { tenant: &tenant, begun };
            drawn.await
        };
        let captcha = match tokio::time::timeout(timeout, drawn).await {
            Ok(drawn) => drawn?.map_err(|Late| late())?,
            Err(_) => return Err(late()),
        };
        let held = Held::new(weak, captcha.png.len())
            .ok_or_else(|| ApiError::memory("no room for the image within the tenant's memory limit"))?;
        Ok(Counted { value: captcha, held })
    })))
}

/// Charges the time from `begun` to the tenant, also where nobody waits for the end of it.
struct Paid<'a> {
    tenant: &'a Tenant,
    begun: Instant,
}

impl Drop for Paid<'_> {
    fn drop(&mut self) {
        self.tenant.account.charge(self.begun.elapsed().as_nanos() as u64);
    }
}

fn late() -> ApiError {
    ApiError::verbatim("timeout: captcha")
}

fn draw(config: &CaptchaConfig, deadline: Instant) -> Result<Captcha, Late> {
    let mut rng = rand::rng();
    let glyphs: Vec<_> = (0..config.char_count).filter_map(|_| glyphs::GLYPHS.choose(&mut rng)).collect();
    let mut canvas = Canvas::new(deadline);
    canvas.write(&glyphs, config.width, config.height)?;
    for (index, filter) in config.filters.iter().enumerate() {
        if config.cut_at == Some(index) {
            canvas.cut(config.width, config.height);
        }
        filter.apply(&mut canvas)?;
    }
    if config.cut_at.is_none_or(|at| at >= config.filters.len()) {
        canvas.cut(config.width, config.height);
    }
    Ok(Captcha { text: glyphs.iter().map(|glyph| glyph.letter).collect(), png: canvas.png()? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use worker_core::{CaptchaLimits, Value};

    use super::*;

    fn map(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
        Value::Map(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>())
    }

    fn config(filters: Vec<Value>) -> CaptchaConfig {
        let size = map([("width", Value::Integer(200)), ("height", Value::Integer(80))]);
        let config =
            map([("char_count", Value::Integer(5)), ("filters", Value::List(filters)), ("viewbox_size", size)]);
        CaptchaConfig::read(&config, &CaptchaLimits::default()).unwrap()
    }

    fn drawn(filters: Vec<Value>) -> Captcha {
        draw(&config(filters), Instant::now() + Duration::from_secs(60)).unwrap_or_else(|Late| panic!("late"))
    }

    fn pixels(captcha: &Captcha) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(&captcha.png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        (frame.width, frame.height, pixels)
    }

    fn dark(captcha: &Captcha) -> usize {
        pixels(captcha).2.chunks(3).filter(|pixel| **pixel != [255, 255, 255]).count()
    }

    #[test]
    fn a_picture_has_its_size_and_shows_something() {
        let captcha = drawn(Vec::new());
        assert_eq!(captcha.text.chars().count(), 5);
        let (width, height, _) = pixels(&captcha);
        assert_eq!((width, height), (200, 80));
        let dark = dark(&captcha);
        assert!((500..8_000).contains(&dark), "{dark} pixels of letters");
    }

    #[test]
    fn each_filter_changes_the_picture() {
        let whole = 200 * 80;
        assert!(dark(&drawn(vec![map([("filter", "ColorInvert".into())])])) > whole / 2);
        let noise = map([("filter", "Noise".into()), ("prob", Value::Integer(1))]);
        assert_eq!(dark(&drawn(vec![noise])), whole);
        let grid = map([("filter", "Grid".into()), ("x_gap", Value::Integer(1)), ("y_gap", Value::Integer(1))]);
        assert_eq!(dark(&drawn(vec![grid])), whole);
        let radius = Value::Integer(512);
        let dot = map([
            ("filter", "Dot".into()),
            ("n", Value::Integer(1)),
            ("min_radius", radius.clone()),
            ("max_radius", radius),
        ]);
        assert!(dark(&drawn(vec![dot])) > whole / 4);
        let point = |x, y| map([("x", Value::Integer(x)), ("y", Value::Integer(y))]);
        let red = map([("r", Value::Integer(255)), ("g", Value::Integer(0)), ("b", Value::Integer(0))]);
        let line = map([
            ("filter", "Line".into()),
            ("p1", point(0, 256)),
            ("p2", point(511, 256)),
            ("thickness", Value::Integer(512)),
            ("color", red),
        ]);
        assert!(pixels(&drawn(vec![line])).2.chunks(3).all(|pixel| pixel == [255, 0, 0]));
        // A wave of an amplitude beyond the picture leaves little of it.
        let wave = map([
            ("filter", "Wave".into()),
            ("f", Value::Float(1e300)),
            ("amp", Value::Float(-1e300)),
            ("d", "vertical".into()),
        ]);
        drawn(vec![wave, map([("filter", "RandomLine".into())])]);
    }

    #[test]
    fn drawing_stops_when_its_time_is_over() {
        let cow = || {
            let (n, radius) = (Value::Integer(500), Value::Integer(512));
            map([
                ("filter", "Cow".into()),
                ("n", n),
                ("min_radius", radius.clone()),
                ("max_radius", radius),
                ("allow_duplicates", Value::Boolean(true)),
            ])
        };
        let all = (0..12).map(|_| cow()).collect();
        assert!(matches!(draw(&config(all), Instant::now()), Err(Late)));
    }
}
