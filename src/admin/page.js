'use strict';
(() => {
  const PERIOD = 2000;
  const at = id => document.getElementById(id);
  const whole = new Intl.NumberFormat('en');
  const age = s => s < 120 ? s + 's' : s < 7200 ? Math.floor(s / 60) + 'm' : s < 172800 ? Math.floor(s / 3600) + 'h' : Math.floor(s / 86400) + 'd';
  let seen = null, timer = null, asking = false;

  const show = (id, text) => { const to = at(id); if (to && to.textContent !== text) to.textContent = text; };

  const draw = rates => {
    const most = Math.max(1, ...rates), last = 60;
    const points = rates.map((rate, n) => [(n + last - rates.length) * 2, 30 - rate / most * 28]);
    const line = points.map(([x, y], n) => (n ? 'L' : 'M') + x + ' ' + y.toFixed(1)).join('');
    at('line').setAttribute('d', line);
    at('under').setAttribute('d', points.length ? line + 'L' + points[points.length - 1][0] + ' 32L' + points[0][0] + ' 32Z' : '');
    at('spark').setAttribute('aria-label', 'Queries per second over the last minute, at most ' + whole.format(Math.max(0, ...rates)));
  };

  // What the server renders is what is shown: fetched again, and put in place part by part where it differs.
  const renew = async () => {
    const text = await (await fetch(location.href, { cache: 'no-store' })).text();
    const page = new DOMParser().parseFromString(text.slice(text.indexOf('<body>')), 'text/html');
    for (const id of ['state', 'notice', 'watches', 'findings', 'services', 'zones', 'encrypted']) {
      const old = at(id), now = page.getElementById(id);
      if (old && now && old.innerHTML !== now.innerHTML && !old.contains(document.activeElement) && !old.querySelector('details[open]')) {
        old.replaceWith(document.importNode(now, true));
      }
    }
  };

  const tick = async () => {
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch('/api/v1/status', { cache: 'no-store' });
      if (!answer.ok) throw new Error(answer.status);
      const now = await answer.json();
      show('rate', whole.format(now.queries.perSecond));
      show('count-services', whole.format(now.services));
      show('count-endpoints', whole.format(now.endpoints));
      show('count-addresses', whole.format(now.reverseAddresses));
      show('serial', String(now.serial));
      show('uptime', age(now.uptimeSeconds));
      draw(now.queries.lastMinute);
      const shape = [now.serial, now.state, now.ready, now.watches.map(watch => watch.text.replace(/, for \d+\w$/, '')),
        JSON.stringify([now.listen, now.encrypted, now.certificate])].join();
      const minute = Math.floor(now.uptimeSeconds / 10);
      if (seen !== null && (seen.shape !== shape || seen.minute !== minute)) await renew();
      seen = { shape, minute };
      at('lost').hidden = true;
      document.documentElement.dataset.live = 'yes';
    } catch (error) {
      at('lost').hidden = false;
    } finally {
      asking = false;
    }
  };

  const run = () => {
    clearInterval(timer);
    timer = null;
    if (!document.hidden) { tick(); timer = setInterval(tick, PERIOD); }
  };
  document.addEventListener('visibilitychange', run);
  run();
})();
