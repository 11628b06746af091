# The shop on Mojolicious, in its own event loop: passwords are checked in the handler, with PBKDF2 by hand as Perl's own
# library has none. HASH_COST (default 1) makes a login that many times as heavy.
#
# Mojolicious runs a handler as soon as it has read the request, and sends the answers of a turn together.
use Mojolicious::Lite -signatures;

use Digest::SHA qw(hmac_sha512);
use Time::HiRes qw(clock_gettime CLOCK_PROCESS_CPUTIME_ID);

my $ROUNDS = 8_000 * ($ENV{HASH_COST} // 1);
my $SALT   = 'sixteen bytes...';

# The first block of PBKDF2 with HMAC-SHA512.
sub pbkdf2 ($password) {
  my $block = my $key = hmac_sha512($SALT . pack('N', 1), $password);
  for (2 .. $ROUNDS) {
    $block = hmac_sha512($block, $password);
    $key ^= $block;
  }
  return $key;
}

my %users     = (ann => pbkdf2('secret'));
my @catalogue = map { {id => $_, name => "Article $_", price => 100 * $_} } 1 .. 20;

# Answers, with the CPU time since $begun told; the process has one thread.
sub respond ($c, $begun, $status, $content) {
  my $ns = int(1e9 * (clock_gettime(CLOCK_PROCESS_CPUTIME_ID) - $begun));
  $c->res->headers->header('X-Cpu-Ns' => $ns);
  $c->render(json => $content, status => $status);
}

# An unknown user fails before any hashing.
post '/login' => sub ($c) {
  my $begun  = clock_gettime(CLOCK_PROCESS_CPUTIME_ID);
  my $user   = $c->param('user') // '';
  my $stored = $users{$user};
  return respond($c, $begun, 401, {error => 'unknown user'}) unless defined $stored;
  my $fits = pbkdf2($c->param('password') // '') eq $stored;
  respond($c, $begun, $fits ? 200 : 401, $fits ? {welcome => $user} : {error => 'wrong password'});
};

get '/browse' => sub ($c) {
  respond($c, clock_gettime(CLOCK_PROCESS_CPUTIME_ID), 200, {articles => \@catalogue});
};

# Waits for a slow system elsewhere: long, but next to no CPU.
get '/report' => sub ($c) {
  $c->render_later;
  Mojo::IOLoop->timer(0.05 => sub { respond($c, clock_gettime(CLOCK_PROCESS_CPUTIME_ID), 200, {sales => 42}) });
};

app->secrets(['not a secret']);
app->start;
