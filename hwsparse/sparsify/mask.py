import numpy as np
from hwsparse.pattern import *
from hwsparse.errors import PatternError
def applicable(layer, pattern):
    if isinstance(pattern, Dense): return None
    if layer.groups>1 and layer.groups==layer.input_shape[1]: return "depthwise"
    if isinstance(pattern,NM) and layer.weight_shape[1]%pattern.m: return "m"
    if isinstance(pattern,Block) and layer.outputs//layer.groups<pattern.rows: return "r"
    if isinstance(pattern,Channel) and (layer.groups>1 or layer.outputs<=pattern.multiple): return "c"
    return None
def make_mask(scores, choice, groups=1):
    s=np.asarray(scores); p=choice.pattern; n=s.shape[0]; m=s.reshape(n,-1)
    def top(a,ratio):
        k=int(round(ratio*a.size)); out=np.ones(a.size,bool); out[np.argsort(a.ravel(),kind="stable")[:k]]=False; return out.reshape(a.shape)
    if isinstance(p,Unstructured): return top(m,choice.ratio).reshape(s.shape)
    if isinstance(p,Block):
        out=np.zeros(m.shape,bool); per=n//groups; rows=[]
        for g in range(groups):
            for i in range(0,per,p.rows): rows.append((g*per+i,min(g*per+i+p.rows,(g+1)*per)))
        sc=np.stack([m[a:b].mean(0) for a,b in rows]); k=top(sc,choice.ratio)
        for (a,b),r in zip(rows,k): out[a:b]=r
        return out.reshape(s.shape)
    if isinstance(p,NM):
        t=s.reshape(n,s.shape[1],-1); out=np.zeros(t.shape,bool)
        for a in range(0,n,p.shared):
            sc=t[a:a+p.shared].sum(0)
            for g in range(0,t.shape[1],p.m):
                idx=np.argsort(-sc[g:g+p.m],axis=0)[:p.n]
                for c in range(t.shape[2]): out[a:a+p.shared,g+idx[:,c],c]=True
        return out.reshape(s.shape)
    keep=max(p.multiple,int(round((1-choice.ratio)*n/p.multiple))*p.multiple)
    idx=np.argsort(-(m**2).sum(1),kind="stable")[:keep]; out=np.zeros(m.shape,bool); out[idx]=True; return out.reshape(s.shape)
