//! `ctx.ImageCaptcha`.

use std::num::NonZeroU32;
use std::time::Duration;

use worker_core::{CaptchaLimits, Limits, Quota, RatelimitFamily, RatelimitRules};

use crate::harness::{Harness, OTHER, TENANT, on_worker};
use crate::scripts::script;

#[test]
fn captchas_are_pictures_and_their_limits_hold() {
    on_worker(|| async {
        let h = Harness::with(Limits::default(), RatelimitRules::unlimited()).await;
        // It needs no capability.
        h.passes_as(TENANT, &[], script!("captcha/create"), &[]).await;
    });
}

#[test]
fn captchas_have_a_rate_limit() {
    on_worker(|| async {
        let quota = Quota::per(NonZeroU32::new(2).unwrap(), Duration::from_secs(3_600));
        let rules = RatelimitRules::default().with_global(RatelimitFamily::ImageCaptcha, [quota]);
        let h = Harness::with(Limits::default(), rules).await;
        let source = r#"
            local _, ctx = ...
            local function create() ctx.ImageCaptcha.Create({char_count = 1, filters = {}, viewbox_size = {width = 9, height = 9}}) end
            create()
            create()
            local ok, err = pcall(create)
            return if not ok and string.find(err, "^Global ratelimit hit for bucket ") then "ok" else tostring(err)
        "#;
        h.assert_ok(source).await;
    });
}

/// Each would be drawn for much longer than its time; meanwhile the thread is free.
#[test]
fn what_takes_too_long_is_given_up() {
    on_worker(|| async {
        let timeout = Duration::from_millis(50);
        let limits = Limits { captcha: CaptchaLimits { timeout, ..CaptchaLimits::default() }, ..Limits::default() };
        let h = Harness::with(limits, RatelimitRules::unlimited()).await;
        h.passes_as(TENANT, &[], script!("captcha/late"), &[]).await;
        h.passes_as(OTHER, &[], r#"return "ok""#, &[]).await;
    });
}
