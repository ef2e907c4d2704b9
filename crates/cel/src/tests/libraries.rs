//! What the libraries give. Expressions are upstream's examples and their edges.

use super::check;

#[test]
fn strings() {
    check(&[
        ("'añb'.charAt(1) + 'ab'.charAt(2)", "\"ñ\""),
        ("'ab'.charAt(3)", "error: index out of range: 3"),
        ("'hello mellow'.indexOf('ello')", "1"),
        ("'hello mellow'.indexOf('ello', 2)", "7"),
        ("'hello mellow'.indexOf('ello', 20)", "-1"),
        ("'hello mellow'.indexOf('jello')", "-1"),
        ("'hello'.indexOf('')", "0"),
        ("'hello'.indexOf('l', -1)", "error: index out of range: -1"),
        ("'hello mellow'.lastIndexOf('ello')", "7"),
        ("'hello mellow'.lastIndexOf('ello', 6)", "1"),
        ("'hello'.lastIndexOf('')", "5"),
        ("'ññ'.lastIndexOf('ñ')", "1"),
        ("['a', 'b'].join() + ['a', 'b'].join('-')", "\"aba-b\""),
        ("'TacoCÆt'.lowerAscii() + 'tacoCÆt'.upperAscii()", "\"tacocÆtTACOCÆT\""),
        ("'hello hello'.replace('he', 'we')", "\"wello wello\""),
        ("'hello hello'.replace('he', 'we', 1)", "\"wello hello\""),
        ("'hello hello'.replace('he', 'we', 0)", "\"hello hello\""),
        ("'ab'.replace('', '_')", "\"_a_b_\""),
        ("'a b c'.split(' ')", "[\"a\", \"b\", \"c\"]"),
        ("'a b c'.split(' ', 2)", "[\"a\", \"b c\"]"),
        ("'a b'.split(' ', 0)", "[]"),
        ("'abc'.split('')", "[\"a\", \"b\", \"c\"]"),
        ("'abc'.split('', 2)", "[\"a\", \"bc\"]"),
        ("'tacocat'.substring(4) + 'tacocat'.substring(0, 4)", "\"cattaco\""),
        ("'tacocat'.substring(2, 1)", "error: invalid substring range. start: 2, end: 1"),
        ("'taco'.substring(5)", "error: invalid substring range. start: 5, end: 4"),
        ("'taco'.substring(-1)", "error: index out of range: -1"),
        ("'  \\ttrim\\n '.trim()", "\"trim\""),
        ("strings.quote('a\"\\n')", "\"\\\"a\\\\\\\"\\\\n\\\"\""),
    ]);
}

#[test]
fn formatting() {
    check(&[
        ("'%s is %d%%'.format(['x', 5])", "\"x is 5%\""),
        ("'%.2f %e'.format([3.14159, 150.0])", "\"3.14 1.500000e+02\""),
        ("'%b %o %x %X'.format([5, 8, 255, 'hello'])", "\"101 10 ff 68656C6C6F\""),
        ("'%s %s'.format([[1, 'a', null], {'k': true}])", "\"[1, \\\"a\\\", null] {\\\"k\\\": true}\""),
        ("'%x'.format([-30])", "\"-1e\""),
        (
            "'%d'.format(['a'])",
            "error: error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("'%s %s'.format(['a'])", "error: error during formatting: index 1 out of range"),
        ("'%q'.format(['a'])", "error: could not parse formatting clause: unrecognized formatting clause \"q\""),
        ("'%.99999f'.format([1.0])", "error: error during formatting: precision exceeds maximum allowed: 1000"),
        ("'%'.format([])", "error: error during formatting: unexpected end of string"),
    ]);
}

#[test]
fn lists_sets_and_patterns() {
    check(&[
        ("[1, 2, 2].isSorted() && !['b', 'a'].isSorted() && [].isSorted()", "true"),
        ("[1, 3].sum() + [-1, 5].max() - [4, 2].min()", "7"),
        ("[1.5, 2.5].sum()", "4.0"),
        ("[duration('1s'), duration('2s')].sum()", "duration(3s)"),
        ("[1].filter(x, x > 1).max()", "error: max called on empty list"),
        ("[1, 2, 1].indexOf(1) + [1, 2, 1].lastIndexOf(1)", "2"),
        ("['a'].indexOf('b')", "-1"),
        ("sets.contains([1, 2, 3], [2, 1])", "true"),
        ("sets.equivalent([1, 1, 2], [2, 1])", "true"),
        ("sets.intersects([1], [2])", "false"),
        ("'abc 123'.find('[0-9]+')", "\"123\""),
        ("'abc'.find('[0-9]+')", "\"\""),
        ("'1a2b3'.findAll('[0-9]') + '1a2b3'.findAll('[0-9]', 1)", "[\"1\", \"2\", \"3\", \"1\"]"),
        ("'a'.find('(')", "error: Illegal regex: invalid regex: ("),
        ("jsonpatch.escapeKey('k8s.io/my~label')", "\"k8s.io~1my~0label\""),
    ]);
}

#[test]
fn quantities_and_versions() {
    check(&[
        ("isQuantity('1.3Gi') && !isQuantity('200K') && !isQuantity('Three')", "true"),
        ("quantity('50k').add(20).sub(quantity('100k')).sub(-50000) == quantity('20')", "true"),
        ("quantity('200M').compareTo(quantity('0.2G'))", "0"),
        ("quantity('50Mi').isGreaterThan(quantity('50M'))", "true"),
        ("quantity('50k').asInteger()", "50000"),
        ("quantity('9999999999999999999999999999999999999G').asInteger()", "error: cannot convert value to integer"),
        ("quantity('1.5').isInteger()", "false"),
        ("quantity('-5').sign()", "-1"),
        ("quantity('50k').asApproximateFloat()", "50000.0"),
        (
            "quantity('x')",
            "error: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("isSemver('1.2.3-alpha.1') && !isSemver('1.2') && isSemver('v01.01', true)", "true"),
        ("semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-a').isLessThan(semver('1.0.0'))", "true"),
        ("semver('1.2.3+a') == semver('1.2.3+b')", "true"),
        ("semver('3.2.1').major() * 100 + semver('3.2.1').minor() * 10 + semver('3.2.1').patch()", "321"),
        ("semver('v1', true).compareTo(semver('1.0.0'))", "0"),
        ("semver('1.2-a', true)", "error: short version cannot contain PreRelease/Build meta data"),
    ]);
}

#[test]
fn addresses() {
    check(&[
        (
            "isIP('127.0.0.1') && isIP('::1') && !isIP('127.0.0.256') && !isIP(':::1') && !isIP('::ffff:1.2.3.4')",
            "true",
        ),
        ("!isIP('fe80::1%eth0') && !isIP('01.2.3.4')", "true"),
        ("ip('::ffff:1.2.3.4')", "error: IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed"),
        ("ip('127.0.0.1').family() + ip('::1').family()", "10"),
        ("ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')", "true"),
        (
            "ip('127.0.0.1').isLoopback() && ip('0.0.0.0').isUnspecified() && ip('224.0.0.1').isLinkLocalMulticast()",
            "true",
        ),
        (
            "ip('ff02::1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast() && ip('192.168.0.1').isGlobalUnicast()",
            "true",
        ),
        ("ip('255.255.255.255').isGlobalUnicast() || ip('ff00::1').isGlobalUnicast()", "false"),
        ("string(ip('::1')) + string(cidr('10.0.0.0/8'))", "\"::110.0.0.0/8\""),
        ("type(ip('::1')) == net.IP", "true"),
        (
            "isCIDR('192.168.0.0/16') && !isCIDR('192.168.0.0/33') && !isCIDR('::1/129') && !isCIDR('1.2.3.4/08')",
            "true",
        ),
        (
            "cidr('192.168.0.0/24').containsIP('192.168.0.1') && !cidr('192.168.0.0/24').containsIP(ip('192.168.1.1'))",
            "true",
        ),
        (
            "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && !cidr('192.168.1.0/24').containsCIDR('192.168.0.0/16')",
            "true",
        ),
        ("cidr('0.0.0.0/0').containsIP('1.2.3.4') && !cidr('0.0.0.0/0').containsIP('::1')", "true"),
        ("cidr('192.168.0.1/24').masked() == cidr('192.168.0.0/24')", "true"),
        ("cidr('::1/128').prefixLength() + cidr('10.0.0.1/8').ip().family()", "132"),
    ]);
}

#[test]
fn urls_and_formats() {
    check(&[
        (
            "isURL('https://user:pass@example.com:80/path?query=val') && isURL('/absolute-path') && !isURL('https://a:b/')",
            "true",
        ),
        ("!isURL('../relative-path') && !isURL('')", "true"),
        (
            "url('https://example.com:80/').getHost() + url('https://example.com:80/').getHostname()",
            "\"example.com:80example.com\"",
        ),
        ("url('https://[::1]:80/').getHostname() + url('https://[::1]:80/').getPort()", "\"::180\""),
        (
            "url('HTTPS://example.com/a b/').getScheme() + url('https://example.com/a b/').getEscapedPath()",
            "\"https/a%20b/\"",
        ),
        ("url('https://a/?k=a&k=b%20c&x').getQuery()", "{\"k\": [\"a\", \"b c\"], \"x\": [\"\"]}"),
        ("url('/path').getHost()", "\"\""),
        ("url('a')", "error: URL parse error during conversion from string: parse \"a\": invalid URI for request"),
        ("format.dns1123Label().validate('my-label')", "none"),
        ("format.dns1123Label().validate('My').value()[0].startsWith('a lowercase RFC 1123 label')", "true"),
        ("format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()", "false"),
        ("format.named('nope')", "none"),
        ("format.byte().validate('aGVsbG8=').hasValue() || format.date().validate('2021-01-01').hasValue()", "false"),
        ("format.date().validate('2021-02-30').value()", "[\"invalid date\"]"),
        ("format.datetime().validate('2021-01-01T00:00:00Z')", "none"),
    ]);
}
