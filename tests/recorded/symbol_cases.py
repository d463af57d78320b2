"""Symbols built in the same words under MXNet and under bucketmod; recorded from the one, compared in the other.

A case is an expression over ``mx``, ``S`` (mx.sym), variables ``a`` to ``d``, and the functions of this file, with the
shapes that are known. Runs under Python 3.9 too.
"""

EXPRESSIONS = """
a + b | a=(2, 3)
a + b | a=(2, 0), b=(0, 3)
a + b | a=(2, 3), b=(3, 3)
a + b | a=(2, 3), b=(3,)
a + 1 | a=(2, 3)
1.5 + a | a=(2, 3)
a - b | b=(2, 3)
a - 1 | a=(2, 3)
1 - a | a=(2, 3)
a * b | a=(2, 3)
a * 2 | a=(2, 3)
a / b | a=(2, 3)
a / 2 | a=(2, 3)
2 / a | a=(2, 3)
a ** b | a=(2, 3)
a ** 2 | a=(2, 3)
-a | a=(2, 3)
a % b | a=(2, 3)
a % 2 | a=(2, 3)
2 % a | a=(2, 3)
a == b | a=(2, 3)
a == 1 | a=(2, 3)
a != b | a=(2, 3)
a != 1 | a=(2, 3)
a > b | a=(2, 3)
a > 1 | a=(2, 3)
a >= b | a=(2, 3)
a >= 1 | a=(2, 3)
a < b | a=(2, 3)
a < 1 | a=(2, 3)
1 < a | a=(2, 3)
a <= b | a=(2, 3)
a <= 1 | a=(2, 3)
abs(a) | a=(2, 3)
(a + b) * (a - b) / 3 + (a + b) | a=(2, 3)
S.maximum(a, b) | a=(2, 3)
S.maximum(a, 1) | a=(2, 3)
S.maximum(1, a) | a=(2, 3)
S.minimum(a, b) | a=(2, 3)
S.minimum(a, 2.5) | a=(2, 3)
S.pow(a, b) | a=(2, 3)
S.pow(2, a) | a=(2, 3)
S.power(a, 3) | a=(2, 3)
S.hypot(a, b) | a=(2, 3)
S.hypot(a, 2) | a=(2, 3)
S.FullyConnected(a, num_hidden=4) | a=(2, 3)
S.FullyConnected(a, num_hidden=4, name='fc') | a=(2, 3, 5)
S.FullyConnected(a, num_hidden=4, no_bias=True, flatten=False) | a=(2, 3, 5)
S.FullyConnected(a, b, c, 4) | a=(0, 3)
S.FullyConnected(a, num_hidden=4, flatten=False) | a=(0, 3, 5)
S.FullyConnected(a, num_hidden=4) + b | a=(0, 3), b=(7, 4)
S.FullyConnected(a, num_hidden=4) | a=(2, 3), fullyconnected0_weight=(4, 5)
S.FullyConnected(a, num_hidden=4)
S.FullyConnected(a)
S.FullyConnected(a, num_hidden='x')
S.FullyConnected(a, num_hidden=4, colour=1)
S.FullyConnected(a, num_hidden=4, lr_mult=2, __mine__='x') | a=(2, 3)
S.FullyConnected(a, num_hidden=4, weight_lr_mult=2)
S.FullyConnected(num_hidden=4, attr={'ctx_group': 'dev1'}) | fullyconnected0_data=(2, 3)
S.Embedding(a, input_dim=10, output_dim=4) | a=(2, 3)
S.Embedding(a, b, 10, 4, 'float16') | a=(2, 3)
S.Activation(a, act_type='relu') | a=(2, 3)
S.Activation(a, act_type='softrelu') | a=(2, 3)
S.Activation(a, act_type='swish')
S.LeakyReLU(a) | a=(2, 3)
S.LeakyReLU(a, act_type='prelu') | a=(2, 3, 4)
S.LeakyReLU(a, act_type='gelu') | a=(2, 3)
S.LeakyReLU(a, act_type='elu', slope=0.5) | a=(2, 3)
S.LeakyReLU(a, act_type='rrelu') | a=(2, 3)
S.SliceChannel(a, num_outputs=4) | a=(2, 8)
S.SliceChannel(a, num_outputs=4) | a=(0, 8)
S.SliceChannel(a, num_outputs=3) | a=(2, 8)
S.SliceChannel(a, num_outputs=3, axis=1, squeeze_axis=True) | a=(2, 3, 5)
S.SliceChannel(a, num_outputs=3, axis=1, squeeze_axis=True) | a=(2, 6, 5)
S.split(a, num_outputs=2, axis=-1) | a=(2, 3, 4)
S.split(a, num_outputs=1, axis=0) | a=(2, 3, 4)
S.split(a, num_outputs=2, name='s')[1] | a=(2, 4)
S.Group(list(S.split(a, num_outputs=2))[::-1]) | a=(2, 4)
S.Reshape(a, shape=(-1, 4)) | a=(2, 3, 4)
S.Reshape(a, shape=(-1, 4)) | a=(0, 3, 4)
S.Reshape(a, shape=(6, 4)) | a=(0, 3, 4)
S.Reshape(a, shape=(0, -1)) | a=(2, 3, 4)
S.Reshape(a, shape=(4, 0, 2)) | a=(2, 3, 4)
S.Reshape(a, shape=(2, 0, 0)) | a=(2, 3, 4)
S.Reshape(a, shape=(6, 1, -1)) | a=(2, 3, 4)
S.Reshape(a, shape=(3, -1, 8)) | a=(2, 3, 4)
S.Reshape(a, shape=(-2,)) | a=(2, 3, 4)
S.Reshape(a, shape=(2, -2)) | a=(2, 3, 4)
S.Reshape(a, shape=(-2, 1, 1)) | a=(2, 3, 4)
S.Reshape(a, shape=(-3, 4)) | a=(2, 3, 4)
S.Reshape(a, shape=(-3, -3)) | a=(2, 3, 4, 5)
S.Reshape(a, shape=(0, -3)) | a=(2, 3, 4)
S.Reshape(a, shape=(-3, -2)) | a=(2, 3, 4)
S.Reshape(a, shape=(-4, 1, 2, -2)) | a=(2, 3, 4)
S.Reshape(a, shape=(2, -4, -1, 3, -2)) | a=(2, 3, 4)
S.Reshape(a, shape=(0, 0, -4, 2, -1)) | a=(2, 3, 4)
S.Reshape(a, shape=(0, 0, -4, 2, -1)) | a=(0, 3, 4)
S.Reshape(a, shape=(-3, 0, 0)) | a=(2, 3, 4, 5)
S.Reshape(a, shape=(-4, -1, 3, 0, 0)) | a=(6, 3, 4)
S.Reshape(a, shape=(-1, 0), reverse=True) | a=(10, 5, 4)
S.Reshape(a, shape=(8, 3, 0, 4), reverse=True) | a=(2, 12, 4, 4)
S.Reshape(a, shape=(-3, 5, -4, 2, -1), reverse=True) | a=(2, 3, 5, 8)
S.Reshape(a, shape=(5, 5)) | a=(2, 3)
S.Reshape(a, target_shape=(2, 0)) | a=(2, 3, 4)
S.Reshape(a, target_shape=(0,)) | a=(2, 3, 4)
S.Reshape(a, shape=[2, -1]) | a=(2, 3, 4)
S.Reshape(a, shape=-1) | a=(2, 3, 4)
a.reshape((0, -1)) | a=(2, 3, 4)
a.reshape(shape=(0, -1)) | a=(2, 3, 4)
S.Flatten(a) | a=(2, 3, 4)
S.Flatten(a) | a=(2,)
S.Flatten(a) | a=(0, 3, 4)
S.flatten(a, name='flat') | a=(2, 3, 4)
a.flatten() | a=(2, 3, 4)
S.Concat(a, b) | a=(2, 3), b=(2, 4)
S.Concat(a, b) | a=(2, 3), b=(0, 4)
S.Concat(a, b, dim=0) | a=(2, 3), b=(4, 3)
S.concat(a, b, c, dim=-1) | a=(2, 3), b=(2, 4), c=(2, 1)
S.Concat(a, b, dim=1) | a=(2, 3), b=(3, 4)
S.Concat(a, a, a, dim=0, name='cat') | a=(2, 3)
S.Concat(S.split(a, num_outputs=2), b)
S.Concat()
S.stack(a, b) | a=(2, 3)
S.stack(a, b, axis=-1) | a=(2, 3)
S.stack(a, b, c, axis=1) | a=(2, 3)
S.add_n(a, b, c) | a=(2, 3)
S.ElementWiseSum(a, b) | b=(2, 3)
S.SwapAxis(a, dim1=0, dim2=1) | a=(2, 3, 4)
S.swapaxes(a, dim1=0, dim2=2) | a=(2, 3, 4)
S.transpose(a) | a=(2, 3, 4)
S.transpose(a, axes=(0, 2, 1)) | a=(2, 3, 4)
S.transpose(a, axes=(1, 0)) | a=(2, 3, 4)
S.transpose(a, axes=(1, 0)) + b | b=(2, 3)
a.transpose((1, 0)) | a=(2, 3)
S.expand_dims(a, axis=1) | a=(2, 3)
S.expand_dims(a, axis=-1) | a=(2, 3)
S.expand_dims(a, axis=3) | a=(2, 3)
a.expand_dims(axis=0) | a=(2, 3)
S.squeeze(a) | a=(2, 1, 3, 1)
S.squeeze(a, axis=1) | a=(2, 1, 3, 1)
S.squeeze(a, axis=(1, 3)) | a=(2, 1, 3, 1)
S.squeeze(a, axis=0) | a=(2, 1, 3, 1)
S.squeeze(a) | a=(1, 1)
a.squeeze() | a=(1, 2)
a.squeeze(axis=0) | a=(1, 2)
S.slice_axis(a, axis=1, begin=0, end=2) | a=(2, 3)
S.slice_axis(a, axis=-1, begin=-2, end=None) | a=(2, 3)
S.slice_axis(a, axis=0, begin=0, end=-1) | a=(2, 3)
S.slice_axis(a, axis=1, begin=2, end=1) | a=(2, 3)
S.slice_axis(a, axis=1, begin=0, end=7) | a=(2, 3)
S.slice(a, begin=(0, 1), end=(2, 3)) | a=(2, 3)
S.slice(a, begin=(None, 1), end=(None, 5)) | a=(2, 3)
S.slice(a, begin=(0, None), end=(2, None), step=(1, -1)) | a=(2, 3)
S.slice(a, begin=(0,), end=(10,), step=(3,)) | a=(8, 3)
S.crop(a, begin=(0,), end=(1,)) | a=(2, 3)
S.Dropout(a) | a=(2, 3)
S.Dropout(a, p=0.2, mode='always') | a=(2, 3)
S.elemwise_add(a, b) | a=(2, 3)
S.elemwise_sub(a, b, name='d') | a=(2, 3)
S.elemwise_mul(lhs=a, rhs=b) | a=(2, 3)
S.elemwise_div(a, b) | a=(2, 3)
S.broadcast_add(a, b) | a=(2, 1), b=(1, 3)
S.broadcast_add(a, b) | a=(2, 1), b=(3,)
S.broadcast_plus(a, b) | a=(2, 3), b=(2, 3)
S.broadcast_sub(a, b) | a=(2, 3, 4), b=(1, 3, 1)
S.broadcast_mul(a, b) | a=(2, 3), b=(2, 4)
S.broadcast_mul(a, b) | a=(0, 3), b=(2, 1)
S.broadcast_div(a, b) | a=(2, 3), b=(2, 1)
S.broadcast_maximum(a, b) | a=(2, 3), b=(2, 1)
S.broadcast_minimum(a, b) | a=(2, 3), b=(2, 1)
S.broadcast_power(a, b) | a=(2, 3), b=(2, 1)
S.broadcast_equal(a, b) | a=(2, 3), b=(2, 1)
S.broadcast_to(a, shape=(2, 3)) | a=(2, 1)
S.broadcast_to(a, shape=(0, 3)) | a=(2, 1)
S.broadcast_axis(a, axis=1, size=4) | a=(2, 1)
S.broadcast_axis(a, axis=(0, 1), size=(3, 4)) | a=(1, 1)
S.tile(a, reps=(2, 3)) | a=(2, 3)
S.tile(a, reps=(2, 3)) | a=(4,)
S.repeat(a, repeats=2) | a=(2, 3)
S.repeat(a, repeats=2, axis=1) | a=(2, 3)
S.reverse(a, axis=1) | a=(2, 3)
S.sum(a) | a=(2, 3)
S.sum(a, axis=1) | a=(2, 3)
S.sum(a, axis=(0, 1)) | a=(2, 3)
S.sum(a, axis=()) | a=(2, 3)
S.sum(a, axis=1, keepdims=True) | a=(2, 3)
S.sum(a, axis=1, exclude=True) | a=(2, 3, 4)
S.sum(a, axis=(0, 1), exclude=True) | a=(2, 3)
S.sum(a, keepdims=True) | a=(2, 3)
S.sum(a, axis=2) | a=(2, 3)
S.sum(a, axis=0) | a=(0, 3)
S.sum_axis(a, axis=-1) | a=(2, 3)
S.mean(a, axis=1) | a=(2, 3, 4)
S.mean(a) | a=(2, 3, 4)
S.max(a, axis=(0, 2)) | a=(2, 3, 4)
S.min(a, axis=-2) | a=(2, 3, 4)
S.prod(a) | a=(2, 3, 4)
a.sum() | a=(2, 3)
a.mean(axis=0, keepdims=True) | a=(2, 3)
S.argmax(a, axis=1) | a=(2, 3)
S.argmin(a, axis=1, keepdims=True) | a=(2, 3)
S.argmax(a) | a=(2, 3)
S.softmax(a) | a=(2, 3)
S.softmax(a, axis=1, temperature=2) | a=(2, 3, 4)
S.log_softmax(a, axis=-1) | a=(2, 3)
S.softmin(a) | a=(2, 3)
a.softmax(axis=0) | a=(2, 3)
S.LayerNorm(a) | a=(2, 3)
S.LayerNorm(a, axis=1, eps=1e-3, name='ln') | a=(2, 3, 4)
S.LayerNorm(a, output_mean_var=True) | a=(2, 3)
S.dot(a, b) | a=(2, 3), b=(3, 4)
S.dot(a, b, transpose_a=True) | a=(3, 2), b=(3, 4)
S.dot(a, b, transpose_b=True) | a=(2, 3), b=(4, 3)
S.dot(a, b) | a=(2, 3), b=(4, 3)
S.dot(a, b) | a=(2, 3, 4), b=(4, 5)
S.dot(a, b) | a=(3,), b=(3,)
S.batch_dot(a, b) | a=(2, 3, 4), b=(2, 4, 5)
S.batch_dot(a, b, transpose_b=True) | a=(2, 3, 4), b=(2, 5, 4)
S.batch_dot(a, b, transpose_a=True, transpose_b=True) | a=(2, 4, 3), b=(2, 5, 4)
S.batch_dot(a, b) | a=(2, 3), b=(3, 4)
S.batch_dot(a, b) | a=(2, 3, 4), b=(2, 5, 6)
S.SoftmaxOutput(a) | a=(2, 3)
S.SoftmaxOutput(a, name='softmax') | a=(2, 3, 4)
S.SoftmaxOutput(a, b, multi_output=True) | a=(2, 3, 4, 5)
S.SoftmaxOutput(a, b, multi_output=True) | a=(2, 3, 4, 5), b=(2, 4, 5)
S.SoftmaxOutput(a, b, preserve_shape=True) | a=(2, 3, 4)
S.SoftmaxOutput(a, b) | a=(2, 3), b=(2, 3)
S.SoftmaxOutput(a, b) | a=(2, 3), b=(3,)
S.SoftmaxOutput(a, b, use_ignore=True, ignore_label=0, normalization='valid', grad_scale=0.5) | a=(2, 3)
S.Softmax(a, name='old') | a=(2, 3)
S.MakeLoss(a, grad_scale=2.0) | a=(2, 3)
S.make_loss(a) | a=(2, 3)
S.BlockGrad(a) | a=(2, 3)
S.stop_gradient(a, name='stop') | a=(2, 3)
S.identity(a) | a=(2, 3)
S.negative(a) | a=(2, 3)
S.exp(S.log(S.sqrt(S.square(a)))) | a=(2, 3)
S.tanh(S.sigmoid(S.relu(S.abs(a)))) | a=(2, 3)
a.exp().log().tanh() | a=(2, 3)
S.Cast(a, dtype='float16') | a=(2, 3)
S.cast(a, dtype='int32') | a=(2, 3)
a.astype('float64') | a=(2, 3)
S.zeros_like(a) | a=(2, 3)
S.ones_like(a) | a=(2, 3)
S.zeros((0, 3)) |
S.zeros((0, 3)) + a | a=(2, 3)
S.zeros(shape=(2, 3), dtype='int32') |
S.ones((2, 3)) |
S.full((2,), 2.5) |
S.clip(a, 0, 1) | a=(2, 3)
a.clip(a_min=-1, a_max=1) | a=(2, 3)
S.where(a, b, c) | a=(2, 3), b=(2, 3)
S.where(a, b, c) | a=(2,), b=(2, 3)
S.one_hot(a, depth=5) | a=(2, 3)
S.pick(a, b) | a=(2, 3)
S.pick(a, b, axis=0, keepdims=True) | a=(2, 3)
S.take(a, b) | a=(4, 5), b=(2, 3)
S.take(a, b, axis=1) | a=(4, 5), b=(3,)
S.RNN(a, state_size=4, num_layers=2, mode='lstm') | a=(5, 2, 3)
S.RNN(a, state_size=4, num_layers=2, mode='lstm', state_outputs=True, bidirectional=True) | a=(5, 2, 3)
S.RNN(a, state_size=4, num_layers=1, mode='gru', state_outputs=True, p=0.2) | a=(5, 2, 3)
S.RNN(a, state_size=4, num_layers=3, mode='rnn_tanh', bidirectional=True) | a=(5, 2, 3)
S.RNN(a, b, S.zeros((1, 0, 4)), state_size=4, num_layers=1, mode='rnn_relu') | a=(5, 2, 3)
S.Group([a, S.split(b, num_outputs=2), a]) | a=(2,), b=(2, 4)
S.Group([a + b, a * b]).get_internals() | a=(2, 3)
(a + b).get_children() | a=(2, 3)
S.FullyConnected(a + b, num_hidden=3).get_internals()['_plus0_output'] | a=(2, 3)
S.Variable('v', shape=(2, 3)) + a |
S.Variable('v', shape=(2, 0)) + a | a=(0, 3)
S.Variable('v', shape=(2, 3)) + a | a=(3, 2)
S.Variable('v', lr_mult=2.0, wd_mult=0, attr={'mine': 'x'}, dtype='float16', init='zeros', __my__=3) |
S.FullyConnected(a, num_hidden=3, name='fc')(a=b * 2) | b=(2, 3)
S.FullyConnected(a, num_hidden=3, name='fc')(a=S.split(b, num_outputs=2)[1], fc_bias=c) | b=(2, 6)
S.FullyConnected(a, num_hidden=3, name='fc')(zz=b)
S.split(a, num_outputs=2) + b
S.Activation(a, act_type='relu', data=b)
a + 'x'
S.Variable('v', colour=1)
S.Variable(3)
S.Group([])
S.Group([a, 3])
S.split(a, num_outputs=2)[2]
S.split(a, num_outputs=2)[-1]
S.split(a, num_outputs=2)[0.5]
(a + b)['zz']
S.Group([a, a])['a']
(a + b).infer_shape(zz=(2, 3))
(a + b).infer_shape(a=[2, 3])
(a + b).infer_shape((2, 3), a=(2, 3))
S.load_json('{}')
S.load_json('no json')
S.load_json(3)
S.load('/no/such/file.json')
scoped(mx, a) | a=(2, 3)
prefixed(mx, a) | a=(2, 3)
lstm(mx, 3) | data=(2, 3), softmax_label=(2, 3)
gru(mx, 3) | data=(2, 3)
shared_weights(mx) | data=(2, 3)
language_model_head(mx) | data=(4, 5), softmax_label=(4, 5)
transformer(mx, 5) | data=(2, 5)
cells(mx, "LSTMCell", 3) | data=(2, 3), softmax_label=(2, 3)
cells(mx, "GRUCell", 3) | data=(2, 3), softmax_label=(2, 3)
cells(mx, "RNNCell", 3) | data=(2, 3), softmax_label=(2, 3)
fused(mx, "lstm", 3) | data=(3, 2), softmax_label=(3, 2)
fused(mx, "gru", 3) | data=(3, 2), softmax_label=(3, 2)
unfused(mx, 3) | data=(2, 3), softmax_label=(2, 3)
"""


def cases():
    """[(expression, {input: shape})], in order."""
    found = []
    for line in EXPRESSIONS.strip().split("\n"):
        expression, _, shapes = line.partition(" | ") if " | " in line else (line.rstrip(" |"), "", "")
        found.append((expression.strip(), eval(f"dict({shapes})")))
    return found


def build(mx, expression):
    """The symbol, with automatic names counted from 0."""
    names = dict(globals(), mx=mx, S=mx.sym, **{name: mx.sym.Variable(name) for name in "abcd"})
    with mx.name.NameManager():
        return eval(expression, names)


def scoped(mx, a):
    with mx.AttrScope(ctx_group="dev1", __mine__="outer", __lr_mult__="0.5"):
        with mx.AttrScope(__mine__="inner"):
            inner = mx.sym.FullyConnected(a, num_hidden=3)
        return mx.sym.Activation(inner + mx.sym.Variable("v"), act_type="relu")


def prefixed(mx, a):
    with mx.name.Prefix("net_"):
        return mx.sym.FullyConnected(mx.sym.FullyConnected(a, num_hidden=3, name="given") + 1, num_hidden=2)


def step_weights(mx, prefix):
    return [mx.sym.Variable(prefix + n) for n in ("i2h_weight", "i2h_bias", "h2h_weight", "h2h_bias")]


def lstm(mx, steps, hidden=4, layers=2):
    S = mx.sym
    embed = S.Embedding(S.Variable("data"), input_dim=11, output_dim=6, name="embed")
    inputs = list(S.SliceChannel(embed, num_outputs=steps, axis=1, squeeze_axis=True))
    for layer in range(layers):
        prefix = f"lstm_l{layer}_"
        wi, bi, wh, bh = step_weights(mx, prefix)
        h, c = [S.zeros(shape=(0, hidden), name=f"{prefix}begin_state_{i}") for i in range(2)]
        outputs = []
        for t, x in enumerate(inputs):
            name = f"{prefix}t{t}_"
            gates = S.FullyConnected(data=x, weight=wi, bias=bi, num_hidden=4 * hidden, name=name + "i2h")
            gates = gates + S.FullyConnected(data=h, weight=wh, bias=bh, num_hidden=4 * hidden, name=name + "h2h")
            parts = S.SliceChannel(gates, num_outputs=4, name=name + "slice")
            i, f, o = [
                S.Activation(parts[k], act_type="sigmoid", name=name + n) for k, n in ((0, "i"), (1, "f"), (3, "o"))
            ]
            c = S.elemwise_add(f * c, i * S.Activation(parts[2], act_type="tanh", name=name + "c"), name=name + "state")
            h = S.elemwise_mul(o, S.Activation(c, act_type="tanh"), name=name + "out")
            outputs.append(h)
        inputs = outputs
    out = S.Concat(*[S.expand_dims(o, axis=1) for o in inputs], dim=1)
    pred = S.FullyConnected(S.Reshape(out, shape=(-1, hidden)), num_hidden=11, name="pred")
    return S.SoftmaxOutput(pred, S.Reshape(S.Variable("softmax_label"), shape=(-1,)), name="softmax")


def gru(mx, steps, hidden=4):
    S = mx.sym
    embed = S.Embedding(S.Variable("data"), input_dim=11, output_dim=6, name="embed")
    wi, bi, wh, bh = step_weights(mx, "gru_")
    h = S.zeros(shape=(0, hidden))
    outputs = []
    for t, x in enumerate(S.split(embed, num_outputs=steps, axis=1, squeeze_axis=True)):
        i2h = S.FullyConnected(data=x, weight=wi, bias=bi, num_hidden=3 * hidden, name=f"t{t}_i2h")
        h2h = S.FullyConnected(data=h, weight=wh, bias=bh, num_hidden=3 * hidden, name=f"t{t}_h2h")
        ir, iz, io = S.SliceChannel(i2h, num_outputs=3)
        hr, hz, ho = S.SliceChannel(h2h, num_outputs=3)
        r, z = S.Activation(ir + hr, act_type="sigmoid"), S.Activation(iz + hz, act_type="sigmoid")
        h = (1.0 - z) * S.Activation(io + r * ho, act_type="tanh") + z * h
        outputs.append(h)
    return S.Group([S.concat(*[S.expand_dims(o, axis=1) for o in outputs], dim=1), S.BlockGrad(h)])


def shared_weights(mx):
    S = mx.sym
    weight, x = S.Variable("w", lr_mult=2, init='["one", {}]'), S.Variable("data")
    for _ in range(2):
        x = S.Activation(S.FullyConnected(x, weight=weight, num_hidden=3, no_bias=True), act_type="tanh") + x
    return S.MakeLoss(S.mean(S.square(x)), name="loss")


def language_model_head(mx):
    S = mx.sym
    cell = S.RNN(
        S.SwapAxis(S.Embedding(S.Variable("data"), input_dim=9, output_dim=3, name="embed"), dim1=0, dim2=1),
        parameters=S.Variable("rnn_parameters"),
        state=S.zeros((2, 0, 4)),
        state_cell=S.zeros((2, 0, 4)),
        state_size=4,
        num_layers=2,
        mode="lstm",
        p=0.3,
        state_outputs=True,
        name="rnn",
    )
    out = S.Dropout(S.SwapAxis(cell[0], dim1=0, dim2=1), p=0.5)
    pred = S.FullyConnected(S.Reshape(out, shape=(-1, 4)), num_hidden=9, name="pred")
    label = S.reshape(S.Variable("softmax_label"), shape=(-1,))
    return S.Group([S.SoftmaxOutput(pred, label, name="softmax", use_ignore=True), S.BlockGrad(cell[1]), cell[2]])


def classified(mx, outputs, hidden):
    pred = mx.sym.FullyConnected(mx.sym.Reshape(outputs, shape=(-1, hidden)), num_hidden=11, name="pred")
    label = mx.sym.Reshape(mx.sym.Variable("softmax_label"), shape=(-1,))
    return mx.sym.SoftmaxOutput(pred, label, name="softmax")


def cells(mx, kind, steps):
    stack = mx.rnn.SequentialRNNCell()
    for layer in range(2):
        stack.add(getattr(mx.rnn, kind)(num_hidden=4, prefix=f"l{layer}_"))
        stack.add(mx.rnn.DropoutCell(0.3, prefix=f"drop{layer}_"))
    embed = mx.sym.Embedding(mx.sym.Variable("data"), input_dim=11, output_dim=6, name="embed")
    return classified(mx, stack.unroll(steps, inputs=embed, merge_outputs=True)[0], 4)


def fused(mx, mode, steps):
    cell = mx.rnn.FusedRNNCell(4, num_layers=2, mode=mode, dropout=0.2)
    embed = mx.sym.Embedding(mx.sym.Variable("data"), input_dim=11, output_dim=6, name="embed")
    return classified(mx, cell.unroll(steps, inputs=embed, merge_outputs=True, layout="TNC")[0], 4)


def unfused(mx, steps):
    cell = mx.rnn.FusedRNNCell(4, num_layers=1, mode="lstm", bidirectional=True).unfuse()
    embed = mx.sym.Embedding(mx.sym.Variable("data"), input_dim=11, output_dim=6, name="embed")
    return classified(mx, cell.unroll(steps, inputs=embed, merge_outputs=True)[0], 8)


def transformer(mx, steps, width=8, heads=2, layers=2):
    S = mx.sym

    def dense(x, n, name):
        return S.FullyConnected(x, num_hidden=n, flatten=False, name=name)

    x = S.Embedding(S.Variable("data"), input_dim=11, output_dim=width, name="embed")
    positions = S.Variable("pos_weight", shape=(1, 7, width))
    x = S.broadcast_add(x, S.slice_axis(positions, axis=1, begin=0, end=steps))
    for i in range(layers):
        p = f"l{i}_"
        qkv = S.split(dense(x, 3 * width, p + "qkv"), num_outputs=3, axis=2)
        q, k, v = [
            S.reshape(S.transpose(S.reshape(t, shape=(0, 0, -4, heads, -1)), axes=(0, 2, 1, 3)), shape=(-3, 0, 0))
            for t in qkv
        ]
        scores = S.softmax(S.batch_dot(q, k, transpose_b=True) * (width // heads) ** -0.5, axis=-1)
        mixed = S.reshape(S.batch_dot(scores, v), shape=(-4, -1, heads, 0, 0))
        mixed = S.reshape(S.transpose(mixed, axes=(0, 2, 1, 3)), shape=(0, 0, -3))
        x = S.LayerNorm(x + dense(mixed, width, p + "out"), axis=-1, eps=1e-5, name=p + "ln1")
        inner = S.Activation(dense(x, 12, p + "ff1"), act_type="relu")
        x = S.LayerNorm(x + dense(inner, width, p + "ff2"), axis=-1, eps=1e-5, name=p + "ln2")
    logits = S.FullyConnected(S.mean(x, axis=1), num_hidden=5, name="cls")
    return S.SoftmaxOutput(logits, S.Variable("label"), name="softmax")
