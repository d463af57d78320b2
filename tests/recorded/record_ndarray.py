"""Records what MXNet 1.9.1 gives for expressions on NDArrays; the tests evaluate the same expressions here.

Run with MXNet's Python 3.9 environment: ``python record_ndarray.py`` writes ndarray.json beside this file.
"""

import json
import pathlib

import mxnet as mx
import numpy as np

EXPRESSIONS = """
a[1,2] | a[1,2,3] | a[0:0] | a[5] | a[:, 1] | a[::2] | a[-1] | a[...,0] | a[None] | a[[0,1]] | a[nd.array([0,1])]
a[nd.array([0,1]),nd.array([1,2])] | f[nd.array([1,0,1])] | f[f>2] | f[0] | a[:,:,1:3] | a[1,1:] | a[-1:,0] | i+1.5
i/2 | i*1.7 | 7/i | i-i | i*f | i+f | f+np.array([1,2,3]) | f+[1,2,3] | f%2 | -f%2 | i%2 | f%0 | 5%f | f**2 | 2**f
f==2.5 | f!=2.5 | f==None | i>1 | i>i | i>=1.5 | f<3 | f<=f | abs(-f) | -f | f<'a' | 1-f | 2/f | 3-i | f/f | f+a
a+a[0] | nd.array(3.0).asscalar() | nd.array(np.arange(3)) | nd.array(i) | nd.array(np.arange(3),dtype='int64')
nd.array([[1,2],[3]]) | nd.array(i,dtype='float64') | nd.array([True,False]) | nd.array([1+2j])
nd.zeros((2,),dtype='int16') | nd.zeros(3) | nd.arange(5) | nd.arange(1,7,2,repeat=2) | nd.arange(3,dtype='int32')
nd.eye(2) | nd.eye(2,3,1) | nd.full((2,),7) | nd.full((2,),7,dtype='int32') | nd.ones((2,),dtype='uint8')
nd.linspace(0,1,3) | f.sum() | a.sum(axis=1) | a.sum(axis=(0,2)) | a.mean(axis=0,keepdims=True) | a.max()
a.sum(axis=0,exclude=True) | a.norm() | a.norm(ord=1) | a.norm(axis=1) | a.argmax(axis=1) | a.argmax()
a.argmin(axis=0) | a.argmax(axis=1,keepdims=True) | i.sum() | i.mean() | i.max() | a.prod(axis=2)
nd.sum_axis(a,axis=0) | nd.sum(a,axis=()) | a.min(axis=2) | nd.cumsum(f) | nd.nansum(f) | f.asscalar()
f[0].asscalar() | bool(f) | bool(f[0]) | bool(nd.zeros((1,))) | float(f[0]) | int(f[0]) | len(a) | f.size | f.ndim
f.context==mx.cpu() | f.stype | a.shape | a.T | i.T | a.reshape((-1,)) | a.reshape(6,4) | a.reshape((0,-1))
a.reshape((-2,)) | a.reshape((-3,0)) | a.reshape((-4,1,2,0,0)) | a.reshape((-4,-1,2,-2)) | a.reshape(5,5)
a.reshape((-1,0),reverse=True) | a.reshape(shape=(24,)) | a.reshape((0,-4,3,1,0)) | a.reshape((4,-1)) | a.flatten()
a.expand_dims(0) | a.expand_dims(axis=-1) | a[0:1].squeeze() | a.swapaxes(0,2) | a.transpose()
a.transpose((1,0,2)) | nd.transpose(a,axes=(2,0,1)) | a.split(3,axis=1)[1] | a.split(2,axis=0,squeeze_axis=True)[1]
len(a.split(3,axis=1)) | a.slice(begin=(0,1),end=(1,3)) | a.slice_axis(axis=1,begin=0,end=-1)
a.slice_axis(axis=1,begin=1,end=None) | a.slice_like(nd.zeros((1,2,2))) | f.clip(2,3) | a.take(nd.array([1,0,9]))
a.take(nd.array([-1]),mode='wrap') | a.take(nd.array([-1])) | a.take(nd.array([0]),axis=1) | f.one_hot(5)
nd.one_hot(nd.array([0,2,7]),3,on_value=2,off_value=-1,dtype='int32') | a[0].pick(nd.array([0,1,2]),axis=1)
nd.pick(a[0],nd.array([0,9,2]),keepdims=True) | nd.pick(a[0],nd.array([0,1,2,-1]),axis=0) | f.tile((2,2))
f.repeat(2) | a.repeat(2,axis=1) | f.broadcast_to((2,3)) | nd.broadcast_axis(f.reshape((1,3)),axis=0,size=2)
nd.where(f>2,f,-f) | nd.broadcast_like(f.reshape((1,3)),nd.zeros((2,3))) | nd.where(nd.array([1,0]),a[:,0],a[:,1])
nd.batch_take(a[0],i-1) | f.sort(is_ascend=False) | f.argsort(is_ascend=False) | f.topk(k=2)
nd.topk(f,k=2,ret_typ='value') | nd.topk(f,k=2,ret_typ='mask') | nd.topk(f,k=2,ret_typ='both')[0]
nd.topk(a,k=2,axis=1,is_ascend=True) | a.sort(axis=0,is_ascend=False) | h.round() | h.rint() | h.fix() | h.floor()
h.ceil() | h.sign() | f.sqrt() | i.sqrt() | f.log() | nd.log1p(f) | nd.expm1(f) | f.exp() | f.square() | nd.rsqrt(f)
nd.cbrt(f) | nd.reciprocal(f) | nd.erf(f) | nd.gammaln(f) | nd.gamma(f) | nd.relu(h) | nd.sigmoid(h) | nd.tanh(h)
nd.softsign(h) | nd.sin(h) | nd.arctan(h) | nd.negative(f) | nd.logical_not(h) | nd.smooth_l1(h,scalar=1)
nd.Activation(f,act_type='softrelu') | nd.Activation(h,act_type='relu') | nd.softmax(f)
nd.softmax(f,temperature=2.0) | nd.softmax(a,axis=1) | nd.log_softmax(a[0],axis=0)
nd.SoftmaxOutput(a[0],nd.array([0,1,2])) | nd.L2Normalization(a[0]) | f.astype('int32')
f.astype('float32',copy=False) is f | f.as_in_context(mx.cpu(0)) is f | f.tostype('default') | f.detach() | repr(f)
repr(i) | repr(nd.ones((2,2))) | f.copyto(nd.zeros((3,))) | f.copyto(nd.zeros((2,))) | nd.concat(f,f,dim=0)
nd.concat(a,a,dim=1) | nd.concatenate([f,f]) | nd.stack(f,f) | nd.stack(f,f,axis=1) | nd.dot(a[0],a[0].T)
nd.dot(f,f) | nd.dot(a[0],a[0],transpose_b=True) | nd.dot(a[0],a[0],transpose_a=True) | nd.dot(a,nd.ones((4,2)))
nd.batch_dot(a,a,transpose_b=True) | nd.maximum(f,2) | nd.minimum(3,f) | nd.add(f,1) | nd.subtract(1,f)
nd.divide(f,2) | nd.modulo(f,2) | nd.power(2,f) | nd.equal(f,2.5) | nd.not_equal(f,f) | nd.greater(f,2)
nd.lesser_equal(f,2) | nd.maximum(f,i) | nd.logical_and(f,f) | nd.elemwise_add(f,f) | nd.elemwise_add(f,a)
nd.broadcast_add(f.reshape((1,3)),nd.zeros((2,1))) | nd.add_n(f,f,f) | nd.zeros_like(i) | nd.ones_like(f)
nd.sum(f,out=nd.zeros((1,))) | nd.cast(f,dtype='int32')
nd.Embedding(nd.array([0,1]),nd.ones((3,2)),input_dim=3,output_dim=2) | nd.SliceChannel(a,num_outputs=3,axis=1)[0]
nd.FullyConnected(nd.ones((2,3)),nd.ones((4,3)),no_bias=True,num_hidden=4) | nd.Reshape(f,shape=(3,1))
nd.Concat(f,f,dim=0) | nd.moveaxis(a,0,2) | nd.flip(f,axis=0) | nd.diag(a[0])
nd.gather_nd(a,nd.array([[0,1],[1,1]])) | nd.shape_array(a) | nd.size_array(a)
nd.slice(a,begin=(None,0),end=(None,2),step=(None,1)) | nd.BlockGrad(f) | nd.identity(f)
nd.SequenceMask(a,sequence_length=nd.array([1,2,0]),use_sequence_length=True,value=-1) | nd.argmax_channel(a[0])
nd.pad(a.reshape((1,2,3,4)),mode='edge',pad_width=(0,0,0,0,1,1,0,1)) | nd.random.uniform(0,1,shape=(2,)).shape
nd.random.uniform(nd.array([0,10.]),nd.array([1,11.]),shape=2).shape | mx.random.uniform().shape
nd.random.randn(2,3).shape | nd.random.randint(0,5,shape=(3,)).dtype.__name__
nd.random.multinomial(nd.array([0,1.0])) | nd.random.shuffle(f).shape | mx.random.seed('a') | mx.random.seed(1.0)
mx.random.seed(np.int64(3))
"""

STATEMENTS = """
a[:]=1 | a[0]=[7,8,9] | a[:,1]=5 | a[0,1]=5 | a[:]=np.zeros((2,3)) | a[:]=nd.ones((1,3)) | a[:]=nd.ones((3,2))
a[nd.array([1])]=3 | a[[0,1],[0,2]]=9 | a+=1 | a+=a | a*=nd.ones((3,)) | a/=2 | a-=1 | a%=2 | a**=2 | a[0:1]+=5
a[0]+=1 | a[0][1]=50 | a[5]=1 | a[:]=[[1,2,3],[4,5,6]] | a[:]='x' | a[None]=3 | a[...]=4
a[0]=nd.array([1,2,3],dtype='int32') | a+=nd.ones((2,2,3)) | a[:, ::2]=1 | b=a[1];b[:]=-1 | b=a[1,1:];b[:]=-1
b=a[:];b[:]=-1 | b=a[:,1];b[:]=-1 | b=a.reshape((3,2));b[:]=-1 | b=a.T;b[:]=-1 | b=a.flatten();b[:]=-1
b=a[[0]];b[:]=-1 | b=a.detach();b[:]=-1 | b=a.as_in_context(mx.cpu());b[:]=-1 | b=a.expand_dims(0);b[:]=-1
b=a.slice_axis(axis=0,begin=0,end=1);b[:]=-1 | b=a.astype('float32');b[:]=-1
"""


def cases(text):
    return [part.strip() for line in text.strip().split("\n") for part in line.split(" | ")]


def environment():
    nd = mx.nd
    return {
        "mx": mx, "nd": nd, "np": np,
        "a": nd.array(np.arange(24).reshape(2, 3, 4)), "i": nd.array([1, 2, 3], dtype="int32"),
        "f": nd.array([1.5, 2.5, 3.5]), "h": nd.array([-2.5, -0.5, 0.0, 0.5, 1.5]),
    }  # fmt: skip


def described(value):
    if isinstance(value, mx.nd.NDArray):
        dtype = np.dtype(value.dtype).name
        return {"dtype": dtype, "shape": list(value.shape), "data": value.asnumpy().astype("float64").ravel().tolist()}
    if isinstance(value, np.generic):
        value = value.item()
    return {"value": list(value) if isinstance(value, tuple) else value}


def family(error):
    for kind in (mx.base.MXNetError, IndexError, ValueError, TypeError):
        if isinstance(error, kind):
            return kind.__name__
    return type(error).__name__


def evaluate(expression):
    try:
        return described(eval(expression, environment()))
    except Exception as error:  # noqa: BLE001 - whatever MXNet raises is the answer
        return {"error": family(error)}


def execute(statement):
    names = {**environment(), "a": mx.nd.array(np.arange(6).reshape(2, 3))}
    try:
        exec(statement, names)
    except Exception as error:  # noqa: BLE001
        return {"error": family(error)}
    return described(names["a"])


if __name__ == "__main__":
    recorded = {
        "expressions": {text: evaluate(text) for text in cases(EXPRESSIONS)},
        "statements": {text: execute(text) for text in cases(STATEMENTS)},
    }
    pathlib.Path(__file__).with_name("ndarray.json").write_text(json.dumps(recorded, indent=0))
