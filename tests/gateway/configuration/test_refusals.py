"""What an operator reads when the configuration cannot be had: every sentence, with its key and line."""

import pytest

from adapters import providers
from gateway.configuration.file import loads
from gateway.errors import ConfigurationError

ONE = "destinations: {one: {provider: flexprice, settings: {api_key: k}}}\n"
V0 = "destinations: {one: {provider: paygentic, settings: {api_key: k, profile: usage-v0, merchant_id: org_1}}}\n"
WING = "destinations: {one: {provider: wingback, settings: {api_key: k}}}\n"


def with_key(written: str) -> str:
    return f"destinations:\n  one:\n    provider: flexprice\n    settings:\n      api_key: {written}\n"


def doubled(pattern: str) -> str:
    """Return forty lines, each of which stands for twice the one before."""
    return "a0: &0 {b: 1}\n" + "".join(pattern.format(n, n, n - 1, n - 1) + "\n" for n in range(1, 40))


def case(text: str, *lines: str) -> tuple[str, tuple[str, ...]]:
    return text, lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        case("", "1: is empty: write destinations and meters, as config.example.yaml does"),
        case("# nothing\n", "1: is empty: write destinations and meters, as config.example.yaml does"),
        case("---\n", "1: is empty: write destinations and meters, as config.example.yaml does"),
        case("\n- a\n", "2: should be a mapping at the top: listen, destinations, meters, ..."),
        case("text", "1: should be a mapping at the top: listen, destinations, meters, ..."),
        case(
            "listen:\n  port: 1\n host: a\n",
            "3: is no valid YAML: expected <block end>, but found '<block mapping start>'",
        ),
        case("a: b: c", "1: is no valid YAML: mapping values are not allowed here"),
        case("a: [1", "1: is no valid YAML: expected ',' or ']', but got '<stream end>'"),
        case("listen: {}\n---\nlisten: {}\n", "2: is no valid YAML: but found another document"),
        case("listen:\n\tport: 1", "2: is no valid YAML: found character '\\t' that cannot start any token"),
        case("listen: {}\nx: '\x07'", "2: holds a character that YAML does not allow"),
        case(
            "destinations:\n  one: {provider: flexprice, settings: {api_key: ${KEY}}}",
            "2: is no valid YAML: expected ',' or '}', but got '{' (write \"${NAME}\" in quotes)",
        ),
        case(with_key("*s3cret"), "5: is no valid YAML: found undefined alias"),
        case(with_key("!s3cret x"), "5: destinations.one.settings.api_key: has a tag that is not supported"),
        case("listen: &a {host: *a}", "1: listen.host: refers to itself"),
        case(doubled("a{}: &{} [*{}, *{}]"), "1: has aliases of aliases that stand for too many values: write fewer"),
        case(
            doubled("a{}: &{} {{<<: [*{}, *{}]}}"),
            "1: has aliases of aliases that stand for too many values: write fewer",
        ),
        case("listen: &a {<<: *a}", "1: listen: `<<` needs another mapping"),
        case("listen: {<<: 1}", "1: listen: `<<` needs another mapping"),
        case("listen: {[a]: 1}", "1: listen: has a key that is no text"),
        case("listen:\n  port: 1\n  host: localhost\n  port: 2\n", "4: listen.port: is there twice, first in line 2"),
        case("meters: {a: {}, a: {}}", "1: meters.a: is there twice, first in line 1"),
        case("listen: 1", "1: listen: should be a mapping"),
        case("destinations: [1]", "1: destinations: should be a mapping"),
        case("destinations: {one: 1}", "1: destinations.one: should be a mapping"),
        case("meters: x", "1: meters: should be a mapping"),
        case("meters: {a: x}", "1: meters.a: should be a mapping"),
        case("meters: {a: {bindings: x}}", "1: meters.a.bindings: should be a mapping"),
        case("customers: {a: x}", "1: customers.a: should be a mapping"),
        case(ONE + "customers: {a: {one: x}}", "2: customers.a.one: should be a mapping"),
        case(ONE + "customers: {a: {one: []}}", "2: customers.a.one: should not be empty"),
        case(ONE + "meters: {a: {bindings: {one: []}}}", "2: meters.a.bindings.one: should not be empty"),
        case(
            ONE + "meters: {a: {bindings: {one: x}}}",
            "2: meters.a.bindings.one: should be a mapping, or a list of mappings",
        ),
        case("auth: {keys: {a: b}}", "1: auth.keys: should be a list"),
        case("listn: {}", "1: listn: unknown key; did you mean listen?"),
        case(
            "zzz: {}",
            "1: zzz: unknown key; known are listen, ledger, auth, destinations, meters, customers, routes,"
            " intake, delivery, retention",
        ),
        case(
            '"a\\nb": {}',
            "1: 'a\\nb': unknown key; known are listen, ledger, auth, destinations, meters, customers,"
            " routes, intake, delivery, retention",
        ),
        case("listen:\n\n  prot: 1", "3: listen.prot: unknown key; did you mean port?"),
        case("delivery:\n  retry:\n    frist: 1s", "3: delivery.retry.frist: unknown key; did you mean first?"),
        case("listen: {port: 65536}", "1: listen.port: should be less than or equal to 65535"),
        case("listen: {port: 80.5}", "1: listen.port: should be a whole number"),
        case("listen: {host: 127}", "1: listen.host: should be text: write it in quotes"),
        case(
            "listen: {host: 0.0.0.0}",
            "1: listen.host: 0.0.0.0 can be reached from outside, and no key is configured: make one with"
            " `usage-gateway keys new` and put it under auth.keys, or listen on 127.0.0.1",
        ),
        case(
            "ledger: {url: 'redis://u:s3cret@h:99999'}",
            "1: ledger.url: 'h:99999' is no host and port: write redis://host:6379/0,"
            " redis+sentinel://host:26379,host:26379/master-name/0 or redis+cluster://host:6379,host:6379;"
            " rediss for TLS, user:password@ before the hosts",
        ),
        case(
            "ledger: {replicas: 1}",
            "1: ledger.replicas: is for a Redis server, and the ledger is a file: leave the key out",
        ),
        case(
            "ledger:\n  url: redis://h\n  ca_file: ca.pem", "3: ledger.ca_file: is for TLS: write rediss:// in the url"
        ),
        case(
            "ledger:\n  url: 'sqlite:///:memory:'",
            "2: ledger.url: should be a file or a Redis server: write sqlite:///relative.db, sqlite:////absolute.db or"
            " redis://host:6379/0",
        ),
        case("intake: {ack: some}", "1: intake.ack: should be 'required', 'stored' or 'all'"),
        case("intake: {unknown_meter: drop}", "1: intake.unknown_meter: should be 'store' or 'refuse'"),
        case("intake: {max_events: 0}", "1: intake.max_events: should be greater than or equal to 1"),
        case(
            "intake: {max_bytes: 32MB}",
            "1: intake.max_bytes: '32MB' is no size: write 32MiB, 512KiB or a number of bytes",
        ),
        case("retention: {events: 35}", "1: retention.events: 35 is no duration: write 200ms, 1s, 15m, 24h or 7d"),
        case(
            "delivery: {timeout: 1.5s}", "1: delivery.timeout: '1.5s' is no duration: write 200ms, 1s, 15m, 24h or 7d"
        ),
        case("delivery: {timeout: 0s}", "1: delivery.timeout: should be longer than nothing"),
        case("delivery: {retry: {first: 1h}}", "1: delivery.retry.first: should not be longer than retry.max"),
        case("delivery: {retry: {attempts: 0}}", "1: delivery.retry.attempts: should be greater than or equal to 1"),
        case("routes: [{destination: a}]", "1: routes[0].destination: unknown destination; there is none"),
        case(
            "auth: {keys: [{name: a, sha256:"
            " aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, scopes: [admin]}, {name: a,"
            " sha256: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb, scopes: [admin]}]}",
            "1: auth.keys[1].name: is that of keys[0] already",
        ),
        case(
            "auth: {keys: [{name: a, sha256:"
            " aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, scopes: [admin]}, {name: b,"
            " sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, scopes: [admin]}]}",
            "1: auth.keys[1].sha256: is that of keys[0] already",
        ),
        case(
            "auth: {keys: [{name: a, sha256: ugw_s3cret, scopes: []}]}",
            "1: auth.keys[0].sha256: should be 64 lower-case hex digits, as `usage-gateway keys new` prints"
            " them; not the key",
            "1: auth.keys[0].scopes: should not be empty",
        ),
        case(
            "auth: {keys: [{name: a, sha256:"
            " aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, scopes: [write]}]}",
            "1: auth.keys[0].scopes[0]: should be 'events:write', 'events:read' or 'admin'",
        ),
        case(
            "destinations: {one: {}}",
            "1: destinations.one.provider: is missing",
            "1: destinations.one.settings: is missing",
        ),
        case(
            "destinations: {one: {provider: flexprise, settings: {}}}",
            "1: destinations.one.provider: unknown provider; did you mean flexprice?",
        ),
        case(
            "destinations: {one: {provider: acme, settings: {}}}",
            f"1: destinations.one.provider: unknown provider; known are {', '.join(providers())}",
        ),
        case(
            "destinations:\n  one:\n    provider: flexprice\n    settings:\n      api_kye: s3cret\n",
            "4: destinations.one.settings.api_key: is missing",
            "5: destinations.one.settings.api_kye: unknown key; did you mean api_key?",
        ),
        case(with_key("''"), "5: destinations.one.settings.api_key: should not be empty"),
        case(with_key("12345"), "5: destinations.one.settings.api_key: should be text: write it in quotes"),
        case(
            with_key('"s3cret\\n"'),
            (
                "5: destinations.one.settings.api_key: holds a line end, or another character that no key has:"
                " look at where it comes from"
            ),
        ),
        case(
            with_key("k") + "      base_url: 'http://[::1'",
            "6: destinations.one.settings.base_url: should be an address with a host: https://api.example.com/v1",
        ),
        case(
            with_key("k") + "      base_url: http://h:99999",
            "6: destinations.one.settings.base_url: should have a port of 1 to 65535",
        ),
        case(
            with_key("k") + "      base_url: ftp://h",
            "6: destinations.one.settings.base_url: should match pattern '^https?://[^\\s?#]+$'",
        ),
        case(
            "destinations:\n  one:\n    provider: paygentic\n    settings: {api_key: k, profile: usage-v0}",
            "4: destinations.one.settings: profile usage-v0 needs merchant_id: your organization's `org_...` id",
        ),
        case(with_key("k") + "    name: x", "6: destinations.one.name: unknown key; the name is the key above"),
        case(with_key("k") + "    mod: live", "6: destinations.one.mod: unknown key; did you mean mode?"),
        case(with_key("k") + "    mode: dark", "6: destinations.one.mode: should be 'live', 'shadow' or 'off'"),
        case(
            with_key("k") + "    zzz: 1",
            (
                "6: destinations.one.zzz: unknown key; known are provider, mode, rate, lookup, required, tenants,"
                " group, late, settings"
            ),
        ),
        case(
            with_key("k") + "    mode: shadow\n    required: true",
            "7: destinations.one.required: a destination with mode shadow cannot be required: leave the key out",
        ),
        case(
            with_key("k") + "    mode: off\n    required: true",
            "7: destinations.one.required: a destination with mode off cannot be required: leave the key out",
        ),
        case(with_key("k") + "    tenants: []", "6: destinations.one.tenants: should not be empty"),
        case(with_key("k") + "    group: ''", "6: destinations.one.group: should not be empty"),
        case(
            "destinations: {'a/b': {provider: flexprice, settings: {api_key: k}}}\n",
            "1: destinations.a/b.name: should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'",
        ),
        case(ONE + "meters: {'': {}}", "2: meters..bindings.one.event_name: should match pattern '^\\S(.*\\S)?$'"),
        case(
            ONE + "meters: {a: {aggregation: avg}}",
            "2: meters.a.aggregation: should be 'sum', 'count', 'max', 'latest' or 'unique'",
        ),
        case(ONE + "meters: {a: {bindngs: {}}}", "2: meters.a.bindngs: unknown key; did you mean bindings?"),
        case(
            V0 + "meters:\n  a: {}",
            "3: meters.a.bindings.one: has no default name for a meter: write it here, as billable_metric_id",
        ),
        case(V0 + "meters:\n  a: {bindings: {one: {}}}", "3: meters.a.bindings.one: give billable_metric_id"),
        case(
            ONE + "meters: {a: {bindings: {oen: {}}}}",
            "2: meters.a.bindings.oen: unknown destination; did you mean one?",
        ),
        case("meters: {a: {bindings: {one: {}}}}", "1: meters.a.bindings.one: unknown destination; there is none"),
        case(
            ONE
            + (
                "meters:\n  a:\n    bindings:\n      one:\n        - event_name: e\n        - evnt_name: e\n"
                "          scale: x\n"
            ),
            "7: meters.a.bindings.one[1].evnt_name: unknown key; did you mean event_name?",
            "8: meters.a.bindings.one[1].scale: should be a number",
        ),
        case(
            ONE + "meters: {a: {bindings: {one: {scale: {property: p}}}}}",
            "2: meters.a.bindings.one.scale: cannot come from a property",
        ),
        case(WING + "customers: {a: {one: {}}}", "2: customers.a.one: give customer_id"),
        case(WING + "customers: {a: {oen: {}}}", "2: customers.a.oen: unknown destination; did you mean one?"),
        case(
            WING
            + (
                "customers: {a: {one: {customer_id: Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670, form:"
                " 2026-12-01T00:00:00Z}}}"
            ),
            "2: customers.a.one.form: unknown key; did you mean from?",
        ),
        case(
            WING
            + ("customers: {a: {one: {customer_id: Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670, from: 2026-12-01}}}"),
            "2: customers.a.one.from: needs a zone: 2026-12-01T00:00:00Z",
        ),
        case(
            WING + "customers: {a: {one: {customer_id: Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670, until: 2026}}}",
            "2: customers.a.one.until: should be a time with a zone: 2026-12-01T00:00:00Z",
        ),
        case(
            WING
            + (
                "customers:\n  a:\n    one:\n      - customer_id: Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670\n"
                "        until: 2026-12-02T00:00:00Z\n"
                "      - customer_id: Cust_c40bea18-c0c9-44b1-bd0c-43f5283e1670\n"
                "        from: 2026-12-01T00:00:00Z\n"
            ),
            "7: customers.a.one[1]: holds at the same time as row 0, for the same subscription",
        ),
        case(with_key("${KEY}"), "5: destinations.one.settings.api_key: the environment variable KEY is not set"),
        case(
            with_key("${file:/nowhere/at/all}"),
            "5: destinations.one.settings.api_key: the file /nowhere/at/all cannot be read: No such file or directory",
        ),
        case(with_key("${file:/}"), "5: destinations.one.settings.api_key: the file / cannot be read: Is a directory"),
        case(
            with_key("'s3cret${'"),
            "5: destinations.one.settings.api_key: holds a ${ that is no reference: write ${NAME},"
            " ${file:PATH}, or $${ for the text ${",
        ),
        case(
            with_key("'s3cret${}'"),
            "5: destinations.one.settings.api_key: holds a ${ that is no reference: write ${NAME},"
            " ${file:PATH}, or $${ for the text ${",
        ),
        case(
            with_key("'s3cret${1A}'"),
            "5: destinations.one.settings.api_key: holds a ${ that is no reference: write ${NAME},"
            " ${file:PATH}, or $${ for the text ${",
        ),
        case(
            with_key("'s3cret${A-b}'"),
            "5: destinations.one.settings.api_key: holds a ${ that is no reference: write ${NAME},"
            " ${file:PATH}, or $${ for the text ${",
        ),
        case(
            with_key("'s3cret${A:-b}'"),
            "5: destinations.one.settings.api_key: holds a ${ that is no reference: write ${NAME},"
            " ${file:PATH}, or $${ for the text ${",
        ),
        case(
            with_key("'s3cret${file:}'"),
            "5: destinations.one.settings.api_key: holds a ${ that is no reference: write ${NAME},"
            " ${file:PATH}, or $${ for the text ${",
        ),
        case(
            with_key("'s3cret${ A }'"),
            "5: destinations.one.settings.api_key: holds a ${ that is no reference: write ${NAME},"
            " ${file:PATH}, or $${ for the text ${",
        ),
        case('listen: {host: "${HOST}"}', "1: listen.host: the environment variable HOST is not set"),
        case(
            'auth: {keys: [{name: a, sha256: "${HASH}", scopes: [admin]}]}',
            "1: auth.keys[0].sha256: the environment variable HASH is not set",
        ),
        case(
            'destinations: {one: {provider: flexprice, settings: {api_kye: "${KEY}"}}}',
            "1: destinations.one.settings.api_kye: the environment variable KEY is not set",
            "1: destinations.one.settings.api_key: is missing",
            "1: destinations.one.settings.api_kye: unknown key; did you mean api_key?",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_key_and_line(text: str, lines: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loads(text, {}, source="config.yaml")
    assert [f"config.yaml:{line}" for line in lines] == str(caught.value).split("\n")
    assert "s3cret" not in str(caught.value)
