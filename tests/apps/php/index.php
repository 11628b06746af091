<?php

/**
 * The application of the PHP servers: one script answers everything, and users.php beside it is its database.
 *
 * Each request tells in X-Cpu-Ns the CPU time that this process used from the script's first line on: a PHP process
 * has one thread.
 */

declare(strict_types=1);

function cpu_ns(): int
{
    $used = getrusage();
    return 1_000_000_000 * ($used['ru_utime.tv_sec'] + $used['ru_stime.tv_sec'])
        + 1_000 * ($used['ru_utime.tv_usec'] + $used['ru_stime.tv_usec']);
}

/** Checks a password; an unknown user fails before any hashing. */
function login(): array
{
    $stored = (require __DIR__ . '/users.php')[$_POST['user'] ?? ''] ?? null;
    if ($stored === null) {
        return [401, ['error' => 'unknown user']];
    }
    if (!password_verify($_POST['password'] ?? '', $stored)) {
        return [401, ['error' => 'wrong password']];
    }
    return [200, ['welcome' => $_POST['user']]];
}

/** The catalogue, cheapest first: light. */
function browse(): array
{
    $articles = [];
    for ($number = 1; $number <= 200; $number++) {
        $price = $number * 7919 % 10_000;
        $articles[] = ['id' => $number, 'name' => "Article $number", 'price' => number_format($price / 100, 2)];
    }
    usort($articles, fn (array $one, array $other): int => (float) $one['price'] <=> (float) $other['price']);
    return [200, ['articles' => array_slice($articles, 0, 20)]];
}

/** Waits for a slow system elsewhere: long, but next to no CPU. */
function report(): array
{
    usleep(50_000);
    return [200, ['sales' => 42]];
}

$begun = cpu_ns();
[$status, $answer] = match ($_SERVER['REQUEST_METHOD'] . ' ' . strtok($_SERVER['REQUEST_URI'], '?')) {
    'POST /login' => login(),
    'GET /browse' => browse(),
    'GET /report' => report(),
    default => [404, ['error' => 'not found']],
};
$body = json_encode($answer, JSON_THROW_ON_ERROR);
http_response_code($status);
header('Content-Type: application/json');
header('Content-Length: ' . strlen($body));
header('X-Build: ' . basename(dirname(__DIR__)));
header('X-Cpu-Ns: ' . (cpu_ns() - $begun));
echo $body;
